#!/usr/bin/env bash
# The complete pipeline on a real brain, in .demo_real/: data, HDF5 file, training, error, curves (docs/real_brain.rst).
# Running it again continues from the step that was interrupted. To start over, delete .demo_real.
#
# bash scripts/demo_real.sh [ARCHIVE]
#     ARCHIVE: the file tractseg-2.10.tar.gz, if it was downloaded before (for a machine without internet).
set -euo pipefail
ARCHIVE=${1:+$(realpath -- "$1")}
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
dwiml_setup

DEMO=.demo_real
BRAIN=$DEMO/brain
EXPERIMENT=$DEMO/experiments/learn2track
SHA256=cb7c4e064922f42be8c7b42f98a3469118dfc55c9cf46e133b7274289dccbd7e
mkdir -p "$DEMO"

# A folder prepared by an older version has no true bundles for dwiml score.
brain_is_complete() {
    [ -f "$BRAIN/whole_brain/ground_truth.json" ]
}

is_the_archive() {
    [ -f "$1" ] && echo "$SHA256  $1" | sha256sum --check --status
}

# pip reads a source distribution's metadata by running its setup.py: with a hash, it does so for the right file only.
fetch() {
    python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'setuptools>=77'
    rm -rf "$DEMO/download.part"
    mkdir "$DEMO/download.part"
    echo "tractseg==2.10 --hash=sha256:$SHA256" >"$DEMO/download.part/requirements.txt"
    python -m pip download --disable-pip-version-check --require-hashes \
        --no-deps --no-binary :all: --no-build-isolation \
        --dest "$DEMO/download.part" --requirement "$DEMO/download.part/requirements.txt" || return 1
    mv "$DEMO/download.part/tractseg-2.10.tar.gz" "$1"
    rm -rf "$DEMO/download.part"
}

# The folder of the brain appears when it is complete.
step "1/6 Fetching the data (28.7 MB)"
if [ -n "$ARCHIVE" ]; then
    echo "Given: $ARCHIVE"
else
    ARCHIVE=$DEMO/tractseg-2.10.tar.gz
    if brain_is_complete || is_the_archive "$ARCHIVE"; then
        echo "Already there."
    elif ! fetch "$ARCHIVE"; then
        echo "error: pip could not fetch tractseg 2.10 (its message is above); where there is no internet, copy" \
            "tractseg-2.10.tar.gz here and run: bash scripts/demo_real.sh tractseg-2.10.tar.gz" >&2
        exit 1
    fi
fi

step "2/6 Network input, silver-standard streamlines and true bundles (about 2 minutes)"
if brain_is_complete; then
    echo "Already there: $BRAIN"
elif [ -d "$BRAIN" ]; then
    echo "$BRAIN was prepared by an older version, without the true bundles that dwiml score needs: it is prepared again."
    rm -rf "$BRAIN.new"
    python scripts/prepare_real_brain.py "$BRAIN.new" --archive "$ARCHIVE"
    rm -rf "$BRAIN"
    mv "$BRAIN.new" "$BRAIN"
else
    python scripts/prepare_real_brain.py "$BRAIN" --archive "$ARCHIVE"
fi

step "3/6 One HDF5 file: the left hemisphere for training, the right one for validation"
if [ -e "$DEMO/brain.hdf5" ]; then
    echo "Already there: $DEMO/brain.hdf5"
else
    dwiml create_hdf5 "$BRAIN/subjects" "$DEMO/brain.hdf5" "$BRAIN/config.json" \
        "$BRAIN/training.txt" "$BRAIN/validation.txt" "$BRAIN/testing.txt"
fi

step "4/6 Training a Learn2Track model"
dwiml train learn2track "$DEMO/brain.hdf5" "$DEMO/experiments" learn2track \
    --input_group_name input --streamline_group_name streamlines \
    --step_size 2 --nb_previous_dirs 1 \
    --batch_size_training 500 --max_batches_per_epoch_training 40 --max_batches_per_epoch_validation 10 \
    --max_epochs 4 --learning_rates 0.002 0.002 0.001 0.0005 --seed 1 --resume auto

step "5/6 The model's error on the right hemisphere beside that of simple baselines"
dwiml evaluate "$EXPERIMENT" --max_batches 10

step "6/6 The curves"
visualize_logs "$EXPERIMENT" --save

cat <<END

Done. In $PWD/$DEMO:
  brain/                             the two subjects; report.json has the measured values
  brain/subjects/right/              the true bundles, among others: dwiml score TRACTOGRAM --ground_truth (this folder)
  brain.hdf5                         what the training reads
  experiments/learn2track/           the experiment: best model, checkpoint, logs, curves
END
