#!/usr/bin/env bash
# Compressors and the paper's generator on a GPU machine without network (docs/train-on-gpu.md). Uses the kit of gpu_kit.sh:
#
#   bash scripts/gpu_kit.sh pack KIT && bash scripts/gpu_generators.sh wheels KIT     here: base, data, and pydantic's wheels
#   bash scripts/gpu_kit.sh keep KIT                                                  there, first: with KIT/part00 and KIT/tokenizer
#   bash scripts/gpu_generators.sh train KIT OUT MINUTES compress paper-tuned         there, with the rest; MINUTES for each name
#
# OUT then holds small.tar.gz (configurations, logs) and NAME.model.safetensors, in parts of 15 MiB where it is larger: at most 8
# files. `bash scripts/gpu_generators.sh unpack OUT runs/evidence` here puts them where `make evidence` looks for them.
set -euo pipefail
KEEP=${KEEP:-/tmp/gpu-kit}
PYTHON=${PYTHON:-python3}
export PYTHONUNBUFFERED=1

wheels() {
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$1" pydantic==2.14.3 pydantic-core==2.50.4 \
    annotated-types==0.8.0 typing-inspection==0.4.5
}

train() {
  local folder=$1 out=$2 minutes=$3
  shift 3
  bash scripts/gpu_kit.sh keep "$folder"
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$KEEP/site" "$KEEP"/*.whl
  export PYTHONPATH="src:$KEEP/site"
  "$PYTHON" scripts/gguf_to_folder.py "$KEEP" "$KEEP/base"
  "$PYTHON" -c "
import sys
from pathlib import Path
from distilledprag.base.default import LAYER, WEIGHTS
from distilledprag.base.prepare import prepare_base
prepare_base(sys.argv[1], sys.argv[2], weights=WEIGHTS, layer=LAYER)" "$KEEP/base" "$KEEP/served"
  "$PYTHON" scripts/train_generators.py --base "$KEEP/served" --data "$KEEP/data" --out "$KEEP/generators" --minutes "$minutes" "$@" 2>&1 | tee "$KEEP/generators.txt"
  mkdir -p "$out"
  for name in "$@"; do
    split -b 15M -d "$KEEP/generators/$name/model.safetensors" "$out/$name.model.safetensors."
  done
  cp "$KEEP/generators.txt" "$KEEP/generators"
  tar -C "$KEEP/generators" -czf "$out/small.tar.gz" generators.txt "${@/%//config.json}" "${@/%//log.jsonl}"
}

unpack() {
  local out=$1 runs=$2 name folder
  mkdir -p "$runs"
  tar -C "$runs" -xzf "$out/small.tar.gz"
  for name in $(cd "$out" && ls | sed -n 's/\.model\.safetensors\.00$//p'); do
    folder="$runs/train-$name"
    mkdir -p "$folder/model"
    mv "$runs/$name/log.jsonl" "$folder"
    mv "$runs/$name/config.json" "$folder/model"
    cat "$out/$name.model.safetensors".* > "$folder/model/model.safetensors"
    rmdir "$runs/$name"
  done
}

"$@"
