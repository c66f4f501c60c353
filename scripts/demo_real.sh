#!/usr/bin/env bash
# The complete pipeline on a real brain, in .demo_real/: data, HDF5 file, training, tracking, scores, curves
# (docs/real_brain.rst).
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
EXPERIMENT=$DEMO/experiments/left_hemisphere
SHA256=cb7c4e064922f42be8c7b42f98a3469118dfc55c9cf46e133b7274289dccbd7e
mkdir -p "$DEMO"

# A folder prepared by an older version has other subjects or streamlines.
brain_is_complete() {
    [ -f "$BRAIN/subjects/left_mirrored/tractograms/labelled.trk" ]
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
step "1/8 Fetching the data (28.7 MB)"
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

step "2/8 Network input, curated streamlines of the left hemisphere, true bundles (a few minutes)"
if brain_is_complete; then
    echo "Already there: $BRAIN"
else
    if [ -d "$BRAIN" ]; then
        echo "$BRAIN was prepared by an older version: it and $DEMO/brain.hdf5 are recreated."
        if [ -d "$DEMO/experiments" ]; then
            older=$DEMO/experiments.$(date +%Y%m%d_%H%M%S)
            mv "$DEMO/experiments" "$older"
            echo "Its experiments are kept in $older."
        fi
        rm -rf "$DEMO/brain.hdf5" "$BRAIN.new" "$BRAIN"
    fi
    python scripts/prepare_real_brain.py "$BRAIN" --archive "$ARCHIVE"
fi

step "3/8 One HDF5 file: the left hemisphere and its mirror image for training"
if [ -e "$DEMO/brain.hdf5" ]; then
    echo "Already there: $DEMO/brain.hdf5"
else
    # The right hemisphere has no streamlines: it is only tracked.
    dwiml create_hdf5 "$BRAIN/subjects" "$DEMO/brain.hdf5" "$BRAIN/config.json" \
        "$BRAIN/training.txt" "$BRAIN/validation.txt" "$BRAIN/testing.txt" --allow_missing --nbr_processes 2
fi

step "4/8 Training a Learn2Track model"
dwiml train learn2track "$DEMO/brain.hdf5" "$DEMO/experiments" left_hemisphere \
    --input_group_name input --streamline_group_name streamlines \
    --step_size 2 --nb_previous_dirs 1 --neighborhood_type axes --neighborhood_radius 1 --dg_key fisher-von-mises \
    --reverse_ratio 0.5 --noise_gaussian_size_forward 0.05 --noise_correlated_size 0.2 --nb_recovery_steps 3 \
    --balance_by bundle_id --batch_size_training 200 --max_epochs 5 --max_batches_per_epoch_validation 10 \
    --learning_rates 0.002 --lr_scheduler warmup_cosine --clip_grad 1 --seed 1 --resume auto

step "5/8 Training a classifier of plausible streamlines"
dwiml train streamline-classifier "$DEMO/brain.hdf5" "$DEMO/experiments" plausibility \
    --input_group_name input --streamline_group_name labelled \
    --noise_gaussian_size_forward 0.1 --noise_correlated_size 0.5 --noise_correlated_nb_points 16 \
    --batch_size_training 500 --max_epochs 3 --max_batches_per_epoch_validation 20 --optimizer AdamW \
    --weight_decay 0.001 --learning_rates 0.002 --lr_scheduler warmup_cosine --clip_grad 1 --seed 1 --resume auto

step "6/8 Tracking the right hemisphere, from one point in each voxel of its white matter"
dwiml track "$EXPERIMENT" right "$DEMO/right.trk" -f --tracking_mask wm_mask \
    --algo prob --theta 90 --min_length 20 --max_length 250 --seed 1 \
    --classifier "$DEMO/experiments/plausibility" --min_plausibility 0.2 --max_attempts 5

step "7/8 Its scores against the bundles of the right hemisphere"
dwiml score "$DEMO/right.trk" --ground_truth "$BRAIN/subjects/right" --end_tolerance 5

step "8/8 The curves"
visualize_logs "$EXPERIMENT" --save
visualize_logs "$DEMO/experiments/plausibility" --save

cat <<END

Done. In $PWD/$DEMO:
  brain/                             the subjects; report.json has the measured values
  brain/subjects/right/              the true bundles, among others: dwiml score TRACTOGRAM --ground_truth (this folder)
  brain.hdf5                         what the training reads
  experiments/left_hemisphere/       the experiment: best model, checkpoint, logs, curves
  experiments/plausibility/          the experiment of the classifier
  right.trk                          streamlines of the right hemisphere
END
