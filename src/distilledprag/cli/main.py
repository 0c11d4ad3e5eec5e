"""The `dprag` command: thin functions, each importing its module only when it runs.

Exit codes: 0 worked, 1 a user's mistake (message on stderr), 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from distilledprag import __version__
from distilledprag.errors import ConfigError, DistilledPRAGError, InputError

app = typer.Typer(
    name="dprag",
    help="Ask an LLM about documents that it never sees.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Base = Annotated[Optional[str], typer.Option(help="Folder of a prepared base (`dprag prepare-base`). Default: SmolLM2.")]  # noqa: UP045
Generator = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Folder of a trained generator for this base. Default: state adapters, which need none."),
]
Layer = Annotated[Optional[int], typer.Option(min=0, help="Write states after this layer. Default: the base's.")]  # noqa: UP045
Rows = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        help="Send only the sentences that the question needs: a share up to 1 (on average), or the most rows. Default: all."
    ),
]
Store = Annotated[
    str, typer.Option(help="Where documents are kept: a folder, made if it is missing, or postgresql://user@host/database.")
]
Retriever = Annotated[str, typer.Option(help="How passages are found: bm25 (by words), dense (by meaning) or hybrid (by both).")]
Encoder = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="With dense or hybrid: a sentence-transformers folder or hub id. Default: all-MiniLM-L6-v2, English."),
]
Language = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Search by word stems of this language, without its stop words: english, german, hindi, ..."),
]
Collection = Annotated[Optional[str], typer.Option(help="Which collection of the store. Default: `default`.")]  # noqa: UP045
Docs = Annotated[list[Path], typer.Option("--docs", help="File or folder; may be given several times.")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", help="A recipe's key=value, such as training.minutes=5; may be given several times."),
]
Limits = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="What reading one file may cost, such as cpu=120,memory=2048. All of them: docs/gateway.md."),
]
WithOcr = Annotated[
    bool,
    typer.Option(
        "--ocr", help="Read scanned pages and pictures, also those within documents, by OCR (apt install tesseract-ocr)."
    ),
]
OcrLanguage = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="With --ocr: the scans' language as tesseract names it, such as deu or deu+eng. Default: eng."),
]
StatesLimit = Annotated[int, typer.Option(min=1, help="MiB of passages' states kept beside the store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _version(show: bool) -> None:
    if show:
        typer.echo(f"dprag {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    docs: Annotated[Optional[list[Path]], typer.Option("--docs", help="File or folder; may be given several times.")] = None,  # noqa: UP045
    more_docs: Annotated[Optional[list[Path]], typer.Argument(help="Further files or folders: --docs A B.")] = None,  # noqa: UP045
    store: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Ask documents that `dprag index` or a gateway put into this store, instead of --docs."),
    ] = None,
    collection: Collection = None,
    top_k: Annotated[Optional[int], typer.Option(help="How many passages to use. Default: 3, or all if there are fewer.")] = None,  # noqa: UP045
    compare: Annotated[bool, typer.Option(help="Also answer closed-book and by plain RAG.")] = False,
    show_wire: Annotated[bool, typer.Option(help="Show the whole masked prompt as it is sent.")] = False,
    rows: Rows = None,
    as_json: AsJson = False,
    base: Base = None,
    generator: Generator = None,
    layer: Layer = None,
    retriever: Retriever = "bm25",
    encoder: Encoder = None,
    language: Language = None,
    limits: Limits = None,
    ocr: WithOcr = False,
    ocr_language: OcrLanguage = None,
    states_limit: StatesLimit = 8192,
) -> None:
    """Answer a question over documents that stay on this machine."""
    from distilledprag.cli import ask as command
    from distilledprag.cli.store import Search, Stored
    from distilledprag.documents.reading import USUAL, Reading
    from distilledprag.documents.store import DEFAULT_COLLECTION

    stray = next((path for path in more_docs or [] if not path.exists()), None)
    if stray:
        raise InputError(f"{stray} does not exist; check the path, and put a question of several words in quotation marks")
    paths, files = [*(docs or []), *(more_docs or [])], Reading(limits, ocr, ocr_language)
    if store is None and not docs:
        raise typer.BadParameter("name documents with --docs, or a store that `dprag index` made with --store")
    if store is None and collection is not None:
        raise ConfigError("--collection is a part of a store; name it with --store, or leave it out")
    if store is not None and paths:
        raise ConfigError(f"ask either --store {store} or files ({paths[0]}), not both; `dprag index` puts files into a store")
    if store is not None and files != USUAL:
        raise ConfigError(
            "--limits and --ocr say how files are read; those of a store were read by `dprag index`, so leave them out"
        )
    documents = paths if store is None else Stored(store, collection or DEFAULT_COLLECTION)
    search = Search(retriever, encoder, language)
    command.run(
        question, documents, top_k, compare, show_wire, as_json, base, generator, rows, layer, files, search, states_limit
    )


@app.command()
def search(
    words: Annotated[str, typer.Argument(help="A question, or words.")],
    store: Store,
    collection: Collection = None,
    top_k: Annotated[int, typer.Option(help="How many passages an answer would use; these are marked.")] = 3,
    limit: Annotated[int, typer.Option(min=1, help="How many passages to show.")] = 10,
    as_json: AsJson = False,
    retriever: Retriever = "bm25",
    encoder: Encoder = None,
    language: Language = None,
) -> None:
    """Show which passages of a store are found for a question. Nothing leaves this machine, and no LLM is loaded."""
    from distilledprag.cli import search as command
    from distilledprag.cli.store import Search, Stored
    from distilledprag.documents.store import DEFAULT_COLLECTION

    stored = Stored(store, collection or DEFAULT_COLLECTION)
    command.run(words, stored, top_k, limit, as_json, Search(retriever, encoder, language))


@app.command()
def encode(
    files: Annotated[list[str], typer.Argument(help="Files or folders; with --ray also Parquet files by URL.")],
    out: Annotated[str, typer.Option(help="Folder for the adapter; with --ray a folder or URL for the states.")],
    target: Annotated[
        str, typer.Option("--for", help="peft: for any LoRA server; engine: compact, for `dprag engine`.")
    ] = "peft",
    question: Annotated[Optional[str], typer.Option(help="Decides what is kept, with --rows or where not all fits.")] = None,  # noqa: UP045
    rows: Rows = None,
    as_json: AsJson = False,
    base: Base = None,
    generator: Generator = None,
    limits: Limits = None,
    ocr: WithOcr = False,
    ocr_language: OcrLanguage = None,
    ray: Annotated[bool, typer.Option("--ray", help="Encode each passage for itself, in bulk and resumably, by Ray.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="With --ray: processes that encode.")] = 2,
    shard_passages: Annotated[int, typer.Option(min=1, help="With --ray: passages in a file, at most.")] = 256,
    text_column: Annotated[str, typer.Option(help="With --ray: the column of Parquet files.")] = "text",
) -> None:
    """Turn documents into an adapter folder, and print the masked prompt that goes with it."""
    from distilledprag.cli import encode as command
    from distilledprag.documents.reading import Reading

    reading = Reading(limits, ocr, ocr_language)
    if ray:
        if question is not None or rows is not None or generator is not None:
            raise ConfigError("--ray encodes passages whole, as states; leave out --question, --rows and --generator")
        command.run_in_bulk(files, out, base, reading, as_json, workers, shard_passages, text_column)
    else:
        command.run(list(map(Path, files)), Path(out), target, question, rows, as_json, base, generator, reading)


@app.command()
def join(
    adapters: Annotated[list[Path], typer.Argument(help="Folders that `dprag encode` wrote, two or more.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapter of all of them.")],
    as_json: AsJson = False,
    base: Base = None,
) -> None:
    """Put adapters side by side that were made apart, each at masks of its own."""
    from distilledprag.cli import encode as command

    command.join(adapters, out, as_json, base)


@app.command("prepare-base")
def prepare_base(
    base: Annotated[Optional[str], typer.Argument(help="A causal LM: folder or hub id. Default: SmolLM2 and its reader.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="Folder for the served base; `<name>-encoder` is made beside it.")] = None,  # noqa: UP045
    masks: Annotated[int, typer.Option(min=1, max=4096, help="Numbered mask tokens, for plain PEFT adapters.")] = 512,
    layer: Layer = None,
    plain_layer: Annotated[int | None, typer.Option(min=0, help="The layer that plain PEFT adapters change.")] = None,
    reader: Annotated[Optional[Path], typer.Option(help="Folder of a reader that `dprag train` wrote, to merge.")] = None,  # noqa: UP045
) -> None:
    """Add mask tokens (and a trained reader) to an LLM, so that it can be served. Trains nothing."""
    from distilledprag.cli import checkpoints

    checkpoints.prepare(base, out, masks, layer, plain_layer, reader)


@app.command()
def path(what: Annotated[str, typer.Argument(help="base, encoder or generator (state adapters need the encoder only).")]) -> None:
    """Print the folder of a part of the default base, which is prepared if it is missing."""
    from distilledprag.cli import checkpoints

    checkpoints.show_path(what)


@app.command()
def demo() -> None:
    """Ask ten questions over the sample documents and show what was sent and what came back."""
    from distilledprag.cli import demo as command

    command.run()


@app.command()
def info(checkpoint: Annotated[Path, typer.Argument(help="Adapter, generator, base or run folder.")]) -> None:
    """Describe what a folder holds: an adapter, a generator, a base or a run."""
    from distilledprag.cli import checkpoints

    checkpoints.info(checkpoint)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.")],
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint, if there is one.")] = False,
    overrides: Overrides = None,
) -> None:
    """Train what a recipe says: a reader for state adapters, a parameter generator, or a baseline (PRAG, DyPRAG)."""
    from distilledprag.cli import train as command

    command.run(recipe, resume, overrides)


@app.command()
def synthesize(
    docs: Docs,
    out: Annotated[Path, typer.Option(help="Pairs for `dprag train`: .jsonl or .parquet.")],
    model: Annotated[
        str, typer.Option(help="The LLM's name at the endpoint; without --base-url, a local model's folder or hub id.")
    ],
    base_url: Annotated[Optional[str], typer.Option(help="OpenAI-compatible endpoint; it sees the documents.")] = None,  # noqa: UP045
    api_key_file: Annotated[Optional[Path], typer.Option(help="Default: the variable OPENAI_API_KEY.")] = None,  # noqa: UP045
    journal: Annotated[Optional[Path], typer.Option(help="Answered requests. Default: beside --out.")] = None,  # noqa: UP045
    limit: Annotated[Optional[int], typer.Option(min=1, help="Use a random sample of this many documents.")] = None,  # noqa: UP045
    partners: Annotated[int, typer.Option(min=0, help="Other documents that each one is paired with.")] = 1,
    passage_words: Annotated[int, typer.Option(min=1, help="Longest passage cut from a text file.")] = 100,
    min_words: Annotated[int, typer.Option(min=1, help="Leave out documents with fewer words.")] = 10,
    titles: Annotated[bool, typer.Option("--titles", help="Put each document's title before its text.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the sample and the partners.")] = 0,
    single_min: Annotated[int, typer.Option(min=1, help="Ask again when a document has fewer pairs.")] = 2,
    single_max: Annotated[int, typer.Option(min=1, help="Most pairs kept per document.")] = 5,
    cross_min: Annotated[int, typer.Option(min=1, help="Ask again when two documents have fewer pairs.")] = 5,
    attempts: Annotated[int, typer.Option(min=1, help="How often to ask, at most, while pairs are missing.")] = 2,
    verify: Annotated[
        bool, typer.Option("--verify", help="Keep only what the LLM can answer with the documents and not without.")
    ] = False,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; below 0: leave it to the endpoint.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 2048,
    response_format: Annotated[str, typer.Option(help="text, json_object or json_schema.")] = "text",
    extra_body: Annotated[Optional[str], typer.Option(help="JSON object of further request fields.")] = None,  # noqa: UP045
    concurrency: Annotated[int, typer.Option(min=1, help="How many requests run at a time.")] = 8,
    retries: Annotated[int, typer.Option(min=0, help="How often a request is retried after a temporary error.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds before a request counts as failed.")] = 600.0,
    prompt_price: Annotated[Optional[float], typer.Option(min=0, help="Dollars per million prompt tokens.")] = None,  # noqa: UP045
    completion_price: Annotated[Optional[float], typer.Option(min=0, help="Dollars per million completion tokens.")] = None,  # noqa: UP045
    budget: Annotated[Optional[float], typer.Option(help="Stop when this many dollars are spent.")] = None,  # noqa: UP045
    limits: Limits = None,
    ocr: WithOcr = False,
    ocr_language: OcrLanguage = None,
) -> None:
    """Let an LLM write question-answer pairs about documents, for training. Run again to go on after any stop."""
    from distilledprag.cli import synthesize as command
    from distilledprag.documents.reading import Reading

    command.run(
        command.Options(
            docs=docs, out=out, model=model, base_url=base_url, api_key_file=api_key_file, journal=journal, limit=limit,
            partners=partners, passage_words=passage_words, min_words=min_words, titles=titles, seed=seed, retries=retries,
            timeout=timeout, response_format=response_format, extra_body=extra_body, reading=Reading(limits, ocr, ocr_language),
        ),
        {
            "single_min": single_min, "single_max": single_max, "cross_min": cross_min, "attempts": attempts, "verify": verify,
            "temperature": temperature if temperature >= 0 else None, "max_tokens": max_tokens, "concurrency": concurrency,
            "prompt_price": prompt_price, "completion_price": completion_price, "budget": budget,
        },
    )  # fmt: skip


@app.command()
def evaluate(
    recipe: Annotated[Optional[Path], typer.Argument(help="YAML recipe; without one, --data.")] = None,  # noqa: UP045
    data: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="JSON lines of documents, question, answers, type (may be gzipped); may be given several times."),
    ] = None,
    n: Annotated[Optional[int], typer.Option(min=1, help="With --data: questions drawn from each file. Default: all.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="With --data: seed of the draw.")] = 0,
    methods: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With --data: comma-separated. Default: closed_book, rag, the state methods and shuffled."),
    ] = None,
    retriever: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="With --data: bm25, dense or hybrid: how --retrieve finds; alone, it takes the best three of a row's documents."
        ),
    ] = None,
    json_file: Annotated[
        Path, typer.Option("--json", help="With --data: where the table goes; answers are kept beside it.")
    ] = Path("evaluation.json"),
    rows: Annotated[
        float,
        typer.Option(help="With --data: what the method state_chosen keeps, a share up to 1 (on average) or the most rows."),
    ] = 0.35,
    generator: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="With --data: a trained generator or compressor for paper, dyprag, state_r2 ...; several times."),
    ] = None,
    retrieve: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="With --data: so many passages, found among all of the file's, not the row's own."),
    ] = None,
    overrides: Overrides = None,
    base: Base = None,
) -> None:
    """Measure how well each method answers, with a shuffled control. Run the same command again to go on after any stop."""
    from distilledprag.cli import evaluate as command

    if recipe:
        command.run(recipe, overrides)
    elif data:
        command.run_files(data, n, seed, methods, json_file, base, rows, overrides, generator, retrieve, retriever)
    else:
        raise InputError("say what to evaluate: a recipe, or --data FILE")


@app.command()
def audit(
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html; a run that was stopped goes on there.")],
    data: Annotated[list[Path], typer.Option(help="Whose passages are attacked: question rows (.jsonl[.gz]) or documents.")],
    train: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="The attacker's own texts. Default: the passages of --data that are not attacked."),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Comma-separated: state, state_r2 ..., paper, dyprag, prag, rag, closed_book.")
    ] = "state",
    attackers: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Comma-separated. Default: nearest, linear, decoder, decoder_shuffled, repeat, questions."),
    ] = None,
    layer: Annotated[Optional[list[int]], typer.Option(help="State adapters' layer; several times to compare.")] = None,  # noqa: UP045
    rows: Annotated[Optional[list[float]], typer.Option(help="Share of the rows that is sent; several times.")] = None,  # noqa: UP045
    noise: Annotated[Optional[list[float]], typer.Option(help="Noise, in standard deviations; several times.")] = None,  # noqa: UP045
    precision: Annotated[Optional[list[str]], typer.Option(help="int8 or float16; several times.")] = None,  # noqa: UP045
    generator: Annotated[Optional[list[Path]], typer.Option(help="A trained generator's folder; several times.")] = None,  # noqa: UP045
    n: Annotated[int, typer.Option(min=2, help="Passages that are attacked.")] = 300,
    pairs: Annotated[int, typer.Option(min=2, help="Passages with adapters that the attacker learns from.")] = 5000,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of the attacker's decoder.")] = 3000,
    questioned: Annotated[Optional[int], typer.Option(min=1, help="Passages that the base is asked about. Default: all.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Of the draws and of the decoder.")] = 0,
    base: Base = None,
) -> None:
    """Measure what an adapter gives away: attackers with base and adapter try to get the passage back."""
    from distilledprag.audit.run import ATTACKERS, AuditOptions
    from distilledprag.cli import evaluate as command

    def named(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    turned = command.dials(named(methods), layer or [], rows or [1.0], noise or [0.0], precision or ["int8"])
    command.run_audit(
        AuditOptions(
            data=data, out=out, train=train or [], dials=turned, attackers=tuple(named(attackers)) if attackers else ATTACKERS,
            generators=generator or [], n=n, pairs=pairs, steps=steps, questioned=questioned, seed=seed, base=base,
        )
    )  # fmt: skip


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of `dprag evaluate RECIPE`.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
) -> None:
    """Write tables and pictures of evaluation runs, in markdown and HTML."""
    from distilledprag.cli import evaluate as command

    command.report(runs, out)


@app.command()
def index(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders; of a folder everything below it.")],
    store: Store,
    collection: Annotated[str, typer.Option(help="Which collection of the store.")] = "default",
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Delete all documents of a folder that is empty now.")
    ] = False,
    limits: Limits = None,
    ocr: WithOcr = False,
    ocr_language: OcrLanguage = None,
    retriever: Retriever = "bm25",
    encoder: Encoder = None,
    language: Language = None,
    encode: Annotated[
        bool, typer.Option("--encode", help="Encode passages ahead for a gateway on this store, some 600 bytes a token.")
    ] = False,
    base: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Encode passages ahead for this prepared base's folder. Default with --encode: SmolLM2."),
    ] = None,
    states_limit: StatesLimit = 8192,
) -> None:
    """Put documents into a store: only what is new or changed is read, what is gone is deleted."""
    from distilledprag.cli import store as command
    from distilledprag.documents.reading import Reading

    states = command.States(base, states_limit) if encode or base else None
    files, search = Reading(limits, ocr, ocr_language), command.Search(retriever, encoder, language)
    command.index(paths, store, collection, allow_empty, files, search, states)


@app.command()
def engine(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    model: Annotated[Optional[str], typer.Option(help="A prepared base's folder. Default: SmolLM2.")] = None,  # noqa: UP045
    served_model_name: Annotated[str, typer.Option(help="The model's public name. Default: the base's own.")] = "",
    api_key_file: Annotated[Optional[Path], typer.Option(help="Keys of clients, one a line. Needed off loopback.")] = None,  # noqa: UP045
    metrics_key_file: Annotated[Optional[Path], typer.Option(help="Keys for /metrics; none: no metrics.")] = None,  # noqa: UP045
    tls_certificate: Annotated[Optional[Path], typer.Option(help="PEM file; serves HTTPS.")] = None,  # noqa: UP045
    tls_key: Annotated[Optional[Path], typer.Option(help="PEM file of the certificate's key.")] = None,  # noqa: UP045
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Requests decoded together.")] = 32,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more get 429.")] = 256,
    max_queue_per_key: Annotated[
        int | None, typer.Option(min=1, help="Most waiting requests of one key. Default: a fourth.")
    ] = None,
    adapter_memory: Annotated[int, typer.Option(min=1, help="MiB of adapters kept in memory.")] = 2048,
    adapter_memory_per_key: Annotated[
        int | None, typer.Option(min=1, help="MiB of one key's adapters. Default: a fourth.")
    ] = None,
    adapters_per_key: Annotated[int, typer.Option(min=1, help="Adapters that one key may have.")] = 256,
    adapter_ttl: Annotated[float, typer.Option(min=1, help="Seconds after which an adapter is deleted.")] = 3600.0,
    request_timeout: Annotated[float, typer.Option(min=0.1, help="Most seconds for an answer, waiting included.")] = 120.0,
    max_lora_rank: Annotated[
        int | None, typer.Option(min=1, help="Highest rank of a LoRA adapter. Default: 256, with vllm 512.")
    ] = None,
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="Longest answer; a request for a longer one gets 400.")] = 1024,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    backend: Annotated[
        str, typer.Option(help="embedded, or vllm: plain LoRA adapters on a vLLM that only this engine reaches.")
    ] = "embedded",
    vllm_python: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With vllm: the Python of an environment that has it. Default: the variable DPRAG_VLLM_PYTHON."),
    ] = None,
    vllm_url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With vllm: use one that listens here on the loopback interface, instead of starting one."),
    ] = None,
    vllm_args: Annotated[str, typer.Option(help="With vllm: further arguments for it, in quotes.")] = "",
    max_loras: Annotated[int, typer.Option(min=1, help="With vllm: different adapters in one batch.")] = 8,
    max_cpu_loras: Annotated[
        int, typer.Option(min=1, help="With vllm: adapters that it holds; others are loaded when asked for.")
    ] = 64,
) -> None:
    """Serve the untrusted side to OpenAI clients: a base LLM, uploaded adapters and masked prompts; never a document."""
    from distilledprag.cli import engine as command

    options = command.EngineOptions(
        host=host, port=port, model=model, served_model_name=served_model_name, api_key_file=api_key_file,
        metrics_key_file=metrics_key_file, tls_certificate=tls_certificate, tls_key=tls_key, max_num_seqs=max_num_seqs,
        max_queue=max_queue, max_queue_per_key=max_queue_per_key, adapter_memory=adapter_memory,
        adapter_memory_per_key=adapter_memory_per_key, adapters_per_key=adapters_per_key, adapter_ttl=adapter_ttl,
        request_timeout=request_timeout, max_lora_rank=max_lora_rank, max_answer_tokens=max_answer_tokens, dtype=dtype,
        backend=backend, vllm_python=vllm_python, vllm_url=vllm_url, vllm_args=vllm_args, max_loras=max_loras,
        max_cpu_loras=max_cpu_loras,
    )  # fmt: skip
    command.run(options)


@app.command()
def serve(
    store: Store = "dprag-store",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the gateway; 0: any free one.")] = 8080,
    engine_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the engine; 0: any free one.")] = 8000,
    allow_plaintext: Annotated[bool, typer.Option("--allow-plaintext", help="Let requests send documents as they are.")] = False,
    rows: Rows = None,
    browser: Annotated[bool, typer.Option(help="Open the page.")] = True,
    base: Base = None,
    retriever: Retriever = "bm25",
    encoder: Encoder = None,
    language: Language = None,
    limits: Limits = None,
    ocr: WithOcr = False,
    ocr_language: OcrLanguage = None,
) -> None:
    """Engine and gateway on this machine with the default base, and the page: drop documents and ask."""
    from distilledprag.cli import serve as command
    from distilledprag.cli.store import Search
    from distilledprag.documents.reading import Reading

    search, files = Search(retriever, encoder, language), Reading(limits, ocr, ocr_language)
    command.run(store, port, engine_port, base, rows, allow_plaintext, browser, files, search)


@app.command()
def gateway(
    engine: Annotated[list[str], typer.Option(help="Address of the engine; several: replicas. Key: DPRAG_ENGINE_API_KEY.")],
    store: Store,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8080,
    api_key_file: Annotated[Optional[Path], typer.Option(help="Keys of clients, one a line. Needed off loopback.")] = None,  # noqa: UP045
    allowed_host: Annotated[Optional[list[str]], typer.Option(help="Another host name to accept; may be repeated.")] = None,  # noqa: UP045
    allow_plaintext: Annotated[bool, typer.Option("--allow-plaintext", help="Let requests send documents as they are.")] = False,
    rows: Rows = None,
    round_masks_to: Annotated[int, typer.Option(min=1, help="Round a passage's masks up to a multiple, to hide its length.")] = 1,
    quotes: Annotated[str, typer.Option(help="When a question quotes a document: refuse, warn or allow.")] = "refuse",
    adapter_memory: Annotated[int, typer.Option(min=1, help="MiB of adapters kept.")] = 256,
    engine_ca: Annotated[Optional[Path], typer.Option(help="PEM file: trust these certificates of the engine.")] = None,  # noqa: UP045
    states_limit: StatesLimit = 8192,
    accept_any_model: Annotated[bool, typer.Option(help="Answer whatever model a request names.")] = True,
    base: Base = None,
    retriever: Retriever = "bm25",
    encoder: Encoder = None,
    language: Language = None,
    limits: Limits = None,
    ocr: WithOcr = False,
    ocr_language: OcrLanguage = None,
) -> None:
    """Serve the trusted side to OpenAI clients and browsers: documents stay here, the engine gets adapters and masked prompts."""
    from distilledprag.cli import gateway as command
    from distilledprag.cli.store import Search
    from distilledprag.documents.reading import Reading

    options = command.GatewayOptions(
        host=host, port=port, engines=engine, store=store, api_key_file=api_key_file, allowed_hosts=allowed_host or [],
        allow_plaintext=allow_plaintext, rows=rows, round_masks_to=round_masks_to, quotes=quotes,
        adapter_memory=adapter_memory, engine_ca=engine_ca, accept_any_model=accept_any_model,
        base=base, reading=Reading(limits, ocr, ocr_language), states_limit=states_limit,
        search=Search(retriever, encoder, language),
    )  # fmt: skip
    command.run(options)


def main() -> None:
    """Entry point: errors that are the user's become one message on stderr and exit code 1."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except DistilledPRAGError as error:
        sys.exit(_failed(str(error)))
    except ModuleNotFoundError as error:
        if (error.name or "distilledprag").partition(".")[0] == "distilledprag":
            raise
        sys.exit(_failed(f"this command needs {error.name}, which is not installed: pip install 'distilledprag[all]'"))
    except KeyboardInterrupt:
        _failed("stopped")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(_failed(f"{error.filename or 'input/output'}: {error.strerror or error}"))


def _failed(message: str) -> int:
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]error:[/red] {escape(message)}")
    return 1
