#!/usr/bin/env bash
# The complete pipeline on simulated subjects, in .demo/: subjects, HDF5 file, training, error, curves, tracking, scores.
# Each result is written atomically, so running the script again continues from the step that was interrupted.
# To start over, delete .demo.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
dwiml_setup

DEMO=.demo
PHANTOM=$DEMO/phantom
EXPERIMENT=$DEMO/experiments/learn2track
mkdir -p "$DEMO"

step "1/7 Example subjects"
if [ -d "$PHANTOM" ]; then
    echo "Already there: $PHANTOM"
else
    dwiml phantom "$PHANTOM"
fi

step "2/7 One HDF5 file of all subjects"
if [ -e "$DEMO/phantom.hdf5" ]; then
    echo "Already there: $DEMO/phantom.hdf5"
else
    dwiml create_hdf5 "$PHANTOM/subjects" "$DEMO/phantom.hdf5" "$PHANTOM/config.json" \
        "$PHANTOM/training.txt" "$PHANTOM/validation.txt" "$PHANTOM/testing.txt"
fi

step "3/7 Training a Learn2Track model"
dwiml train learn2track "$DEMO/phantom.hdf5" "$DEMO/experiments" learn2track \
    --input_group_name input --streamline_group_name streamlines \
    --step_size 2 --nb_previous_dirs 1 --neighborhood_type axes --neighborhood_radius 1 \
    --reverse_ratio 0.5 --noise_gaussian_size_forward 0.08 --noise_correlated_size 0.3 \
    --batch_size_training 300 --max_batches_per_epoch_training 30 \
    --max_epochs 4 --learning_rates 0.002 0.002 0.001 0.0005 --seed 1 --resume auto

step "4/7 The model's error beside that of simple baselines"
dwiml evaluate "$EXPERIMENT"
echo "This model was trained to recover from errors of position (--noise_correlated_size): step 7 evaluates it."

step "5/7 The curves"
visualize_logs "$EXPERIMENT" --save

step "6/7 Streamlines of the test subject, from the ends of its bundles"
TEST=$(head -n 1 "$PHANTOM/testing.txt")
TRUTH=$PHANTOM/subjects/$TEST
dwiml track "$EXPERIMENT" "$TEST" "$DEMO/tracked.trk" -f --tracking_mask wm_mask --mask_interpolation trilinear \
    --seeding_mask "$TRUTH/labels/endpoints.nii.gz" --seeds_per_voxel 3 --forward_only --min_length 20
dwiml show_tractogram "$DEMO/tracked.trk" "$DEMO/tracked.png" -f --background "$TRUTH/metrics/fa.nii.gz"

step "7/7 Their scores against the true bundles"
dwiml score "$DEMO/tracked.trk" --ground_truth "$TRUTH"

cat <<END

Done. In $PWD/$DEMO:
  phantom/                           the example subjects: volumes, bundles, config.json
  phantom.hdf5                       what the training reads
  experiments/learn2track/           the experiment: best model, checkpoint, logs, curves
  tracked.trk, tracked.png           streamlines of the model on a subject that it has not seen

Next:
  source .venv/bin/activate          puts dwiml and visualize_logs on your PATH
  python scripts/train_minimal.py --help    a template for your own training script
  README.md and docs/                how to use your own subjects and your own model
END
