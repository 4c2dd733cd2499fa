#!/usr/bin/env bash
# Test with several processes on one or more machines; without a GPU, on the CPU.
# On several machines, run it on each, with NNODES, NODE_RANK and MASTER_ADDR set. PORT is by default a free one on one
# machine, and 29500 on several.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: [NNODES=1] [NODE_RANK=0] [MASTER_ADDR=127.0.0.1] [PORT=...] $0 CONFIG CHECKPOINT GPUS [OPTION OF test.py ...]" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
GPUS=$3
TOOLS=$(cd "$(dirname "$0")" && pwd)

PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m mmrs.utils.launch \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$GPUS" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" ${PORT:+--master_port="$PORT"} \
    "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
