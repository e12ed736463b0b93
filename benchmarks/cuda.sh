#!/usr/bin/env bash
# What needs an accelerator, in one call: benches at the size of an 8B base (a random one of its shape), how far apart the same modules
# come out, the quick study. A part that fails or is too slow keeps no other from running. An 8B base takes half a minute to make.
# Usage: COMMIT=$(git rev-parse HEAD) bash benchmarks/cuda.sh FOLDER-FOR-RESULTS
set -uo pipefail
cd "$(dirname "$0")/.."
out=$1; mkdir -p "$out"
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
keep=(--write --results "$out" --device cuda ${COMMIT:+--commit "$COMMIT"})
big=(--base llama-3.1-8b --dtype bfloat16)
small=(--base embedded --dtype float32)

part() {  # part SECONDS NAME COMMAND...
  local limit=$1 name=$2 began=$SECONDS code=0; shift 2
  timeout "$limit" "$@" >"$scratch/log" 2>&1 || code=$?
  { printf '== %s: exit %s, %s s\n' "$name" "$code" $((SECONDS - began)); cat "$scratch/log"; } >>"$out/cuda.log"
  printf '== %s: exit %s, %s s\n' "$name" "$code" $((SECONDS - began))
  grep -v '^{' "$scratch/log" | tail -n 12 | cut -c1-300
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
python3 -c 'import peft, loramem.api' || exit 2
part 240 bank python3 benchmarks/bank.py "${big[@]}" "${keep[@]}" --modules 1,4,16 --rank 16 --steps 10
part 120 read python3 benchmarks/read.py "${big[@]}" "${keep[@]}"
part 120 context python3 benchmarks/context.py "${big[@]}" "${keep[@]}" --tokens 4000 --questions 48 --single 6
part 120 repeat python3 benchmarks/repeat.py "${small[@]}" "${keep[@]}" --name repeat
part 400 study python3 -m loramem study run quick --device cuda --offline --store "$scratch/store" --out "$scratch/run"
part 120 distil python3 benchmarks/distil.py "${big[@]}" "${keep[@]}" --repeats 2
part 120 repeat-8b python3 benchmarks/repeat.py "${big[@]}" "${keep[@]}" --name repeat-8b --steps 10
part 120 merge python3 benchmarks/merge.py --base llama-3.2-1b --dtype bfloat16 "${keep[@]}" --modules 4 --steps 20 --few 2 --repeats 2 \
  --rules cat,linear-factors,ties-factors,svd-delta
