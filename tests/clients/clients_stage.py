"""What the servers that clients talk to have: an answer's bound, a key, documents."""

MOST = 48  # tokens of an answer at the engine
KEY = "the-key-of-the-clients"
DOCUMENTS = {
    "staff.txt": "Anna Tovberg lives in Oakport. She earns $46,000 a year and joined in 2019.",
    "companies.txt": "Velkor Foods is based in Millport. Its chief executive is Marten Hale.",
}
