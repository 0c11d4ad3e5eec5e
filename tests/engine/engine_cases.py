"""Two tenants' keys and three documents, for the engine's tests."""

KEY, OTHER_KEY, METRICS_KEY = "tenant-one-has-this-key", "tenant-two-has-another", "key-of-the-operator-only"
DOCUMENTS = [
    "Ingrid Lindovic works for Velkor Freight. Ingrid Lindovic lives in Dunmouth.",
    "Clara Marsen works for Nexmere Software. Clara Marsen lives in Ashhaven.",
    "Omar Tovberg works for Corex Glass. Omar Tovberg lives in Oakport.",
]
QUESTIONS = [f"In which city does {name} live?" for name in ("Ingrid Lindovic", "Clara Marsen", "Omar Tovberg")]
