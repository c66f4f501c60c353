#!/usr/bin/env bash
# Train on a SLURM cluster; the job is requeued at each time limit, until the training is finished.
#
#     sbatch scripts/slurm_train.sh TRAINING_SCRIPT HDF5_FILE [ARGUMENTS ...]
#
# TRAINING_SCRIPT is called with the path of the HDF5 file on the node, then with the ARGUMENTS. Its trainer needs resume="auto",
# requeue=True. Change the lines below for your cluster; more GPUs: --gpus-per-node=N.
#SBATCH --job-name=dwiml
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@180
set -euo pipefail

training_script=$1
hdf5_file=$2
shift 2

# Many small reads are fast on the local disk of the node, and slow on a shared one.
stage_dir=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}
staged=$stage_dir/$(basename "$hdf5_file")
if [[ ! -f $staged || $(stat -c %s "$staged") != $(stat -c %s "$hdf5_file") ]]; then
    cp "$hdf5_file" "$staged.part"
    mv "$staged.part" "$staged"
fi

# USR1 and TERM reach the training through srun: it writes a checkpoint, asks for the job to be requeued and leaves.
launcher=(python)
processes=${SLURM_GPUS_ON_NODE:-1}
if ((processes > 1)); then
    # One process per GPU; torchrun forwards the signals to all of them.
    launcher=(torchrun --standalone --nproc_per_node="$processes" --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGUSR1)
fi
exec srun "${launcher[@]}" "$training_script" "$staged" "$@"
