#!/usr/bin/env bash
# Compressors, the paper's generator and the sentence scorer on a GPU machine without network (docs/train-on-gpu.md). Uses the kit of
# gpu_kit.sh:
#
#   bash scripts/gpu_kit.sh pack KIT && bash scripts/gpu_generators.sh wheels KIT     here: base, data, and wheels
#   bash scripts/gpu_generators.sh check KIT                                          there, first: what came so far; does all import?
#   bash scripts/gpu_kit.sh keep KIT                                                  there, with the next files
#   bash scripts/gpu_generators.sh train KIT MINUTES NAME...                          there, with the rest: all side by side
#   bash scripts/gpu_generators.sh pack OUT NAME...                                   there: what comes back
#
# OUT then holds small.tar.gz (configurations, logs) and NAME.model.safetensors, in parts of 15 MiB where it is larger; at most 8
# files come back from a call. `bash scripts/gpu_generators.sh unpack OUT runs/evidence` here puts them where `make evidence` looks for
# them. OPTIONS="--batch-size 1" makes a dry run on a CPU bearable.
set -euo pipefail
KEEP=${KEEP:-/tmp/gpu-kit}
PYTHON=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True

wheels() {
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_31_x86_64 --abi cp312 --abi abi3 -d "$1" pydantic==2.14.3 pydantic-core==2.50.4 \
    annotated-types==0.8.0 typing-inspection==0.4.5 llguidance==1.9.1 datasketch==2.0.0
}

installed() {
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$KEEP/site" "$KEEP"/*.whl
}

check() {
  bash scripts/gpu_kit.sh keep "$1"
  installed
  PYTHONPATH="src:$KEEP/site" "$PYTHON" scripts/train_generators.py --help | head -n 3
  PYTHONPATH="src:benchmarks:$KEEP/site" "$PYTHON" -c "import bench, answer, encode, train_step"
  PYTHONPATH="src:$KEEP/site" "$PYTHON" -c "import distilledprag.base.prepare, gguf, torch; print(torch.__version__, torch.cuda.get_device_name())"
}

train() {
  local folder=$1 minutes=$2
  shift 2
  bash scripts/gpu_kit.sh keep "$folder"
  installed
  export PYTHONPATH="src:$KEEP/site"
  "$PYTHON" scripts/gguf_to_folder.py "$KEEP" "$KEEP/base"
  "$PYTHON" -c "
import sys
from pathlib import Path
from distilledprag.base.default import LAYER, WEIGHTS
from distilledprag.base.prepare import prepare_base
prepare_base(sys.argv[1], sys.argv[2], weights=WEIGHTS, layer=LAYER)" "$KEEP/base" "$KEEP/served"
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
  for name in "$@"; do  # side by side: each alone leaves much of the GPU idle
    timeout --kill-after 5 "$("$PYTHON" -c "print(round($minutes * 60 + 15))")" "$PYTHON" scripts/train_generators.py --base "$KEEP/served" \
      --data "$KEEP/data" --out "$KEEP/generators" --minutes "$minutes" ${OPTIONS:-} "$name" > "$KEEP/$name.txt" 2>&1 &
  done
  wait
  for name in "$@"; do
    [ -f "$KEEP/generators/$name/model.safetensors" ] || "$PYTHON" scripts/train_generators.py --out "$KEEP/generators" --collect "$name" || true
    tail -n 5 "$KEEP/$name.txt"
  done
}

pack() {
  local out=$1 name small=()
  shift
  mkdir -p "$out"
  for name in "$@"; do
    [ -f "$KEEP/generators/$name/model.safetensors" ] || { echo "$name has no checkpoint" >&2; continue; }
    cp "$KEEP/$name.txt" "$KEEP/generators/$name/output.txt"
    split -b 15M -d "$KEEP/generators/$name/model.safetensors" "$out/$name.model.safetensors."
    small+=("$name"/{config.json,log.jsonl,output.txt})
  done
  tar -C "$KEEP/generators" -czf "$out/small.tar.gz" "${small[@]}"
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
    mv "$runs/$name/output.txt" "$folder"
    rmdir "$runs/$name"
  done
}

"$@"
