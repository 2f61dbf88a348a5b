#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=4 --time=24:00:00
#
#     sbatch examples/slurm.sh CONFIGURATION SERIALIZATION_DIR
#
# The configuration has "distributed": {"cuda_devices": [0, 1, 2, 3]}, the GPUs of each node. Each node writes into a
# directory of its own. Submitted once more, after a failure or a time limit, it goes on from the checkpoints.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export NODES='{"distributed.num_nodes": '$SLURM_NNODES', "distributed.primary_address": "'$MASTER_ADDR'",
    "distributed.primary_port": '$((20000 + SLURM_JOB_ID % 20000))'}'
srun --kill-on-bad-exit=1 bash -c '
    directory="$2/node$SLURM_NODEID"
    [ -e "$directory/config.json" ] && recover=--recover
    allennlp train "$1" --serialization-dir "$directory" --node-rank "$SLURM_NODEID" --overrides "$NODES" $recover
' bash "$1" "$2"
