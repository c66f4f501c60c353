"""The words of odd command lines: valid lines of every command, and what is put in the place of their words."""

from __future__ import annotations

_TRACK = "--hdf5_file data.hdf5 --tracking_mask wm_mask --seeding_mask images/mask.nii.gz --nb_seeds 5"
_TRAIN = (
    "train learn2track data.hdf5 out/exps new --input_group_name input --streamline_group_name streamlines "
    "--rnn_layer_sizes 4 --step_size 2 --max_epochs 1 -q"
)
_IMAGES = (
    "--input images/input.nii.gz --std_mask images/mask.nii.gz --standardization all --tracking_mask "
    "images/mask.nii.gz --nb_seeds 5"
)
# What each line is before it is changed; outputs lie in out/. The first words may be repeated to make one likelier.
BASES = (
    "phantom out/ph --nb_subjects 3 --size small",
    "create_hdf5 subjects out/new.hdf5 config.json training.txt validation.txt testing.txt --step_size 1",
    "create_hdf5 subjects out/old.hdf5 config.json training.txt validation.txt testing.txt -f",
    "join_hdf5 data.hdf5 out/new.hdf5",
    "join_hdf5 data.hdf5 out/old.hdf5 -f",
    "check_hdf5 data.hdf5 --digests",
    "check_hdf5 data.hdf5 --figures out/figures -f",
    "info data.hdf5 --all",
    "info exps/exp --json",
    "info lines.trx --measure",
    "extract_hdf5 data.hdf5 sub-a input out/o.nii.gz",
    "extract_hdf5 data.hdf5 sub-d streamlines out/old.trk -f",
    "extract_hdf5 connected.hdf5 sub-a streamlines out/o.npy",
    _TRAIN,
    f"{_TRAIN} --lazy --batch_size_training 5 --noise_gaussian_size_forward 0.1 --dg_args {{}} --learning_rates 0.01",
    "resume out/exp --new_max_epochs 2 -q",
    "evaluate exps/exp --subset validation --max_batches 1",
    f"track exps/exp sub-a out/o.trk {_TRACK} --report out/o.json",
    f"track exps/exp sub-d out/old.trk {_TRACK} --step_size 1 --theta 60 --max_length 50 --min_length 0 -f",
    f"track exps/exp out/o.trx {_IMAGES} --seeds_at center --save_seeds --compress 0.1",
    f"track exps/exp out/o.tck {_IMAGES} --mask_interpolation trilinear --mask_threshold 0.4 --simultaneous 3",
    "autoencode autoencoder lines.trk out/o.trk --batch_size 5",
    "autoencode autoencoder lines.tck out/o.tck -f",
    "filter_latent autoencoder lines.trk out/o.trx --reference outside.trk lines.tck --rejected out/r.trk",
    "filter_latent autoencoder lines.tck out/old.trk --reference outside.trk --grid images/mask.nii.gz --quantile 1 -f",
    "filter_plausible classifier sub-a lines.trk out/o.trk --min_plausibility 0.4 --rejected out/r.trx --sidecar",
    "filter_plausible classifier lines.tck out/old.trk --input images/input.nii.gz --standardization none -f",
    f"track exps/exp sub-a out/o.trk {_TRACK} --classifier classifier --min_plausibility 0.1 --save_plausibility",
    "import_dwi_ml dwi_ml out/new --hdf5_file data.hdf5",
    "import_dwi_ml dwi_ml/best_model out/new --input_group_name input --streamline_group_name streamlines",
    "import_dwi_ml dwi_ml out/new --no_volume_shift --use_latest_epoch",
    "connectivity_matrix lines.trk lines.tck out/o.npy --labels images/labels.nii.gz --figure out/o.png",
    "connectivity_matrix lines.trx out/old.npy --nb_blocs 3 2 1 --reference images/mask.nii.gz --binary -f",
    "connectivity_score lines.trk matrix.npy --labels images/labels.nii.gz --json out/o.json --save_invalid out/o.trk",
    "connectivity_score lines.tck --hdf5_file connected.hdf5 --subject sub-a --streamline_group_name streamlines",
    "score lines.trk outside.trk --ground_truth truth --json out/o.json --figure out/o.png --save_split out/split",
    "score lines.trx --ground_truth truth --mask_tolerance 3 --end_tolerance 2 --max_outside 0 --json out/old.json -f",
    "score lines.tck --ground_truth masks --min_coverage 0.2",
    "score lines.tck --ground_truth truth --config truth/ground_truth.json",
    "curate lines.trk outside.trk --bundles truth -o out/o.trk --report out/o.json --max_streamlines 3 --seed 1",
    "curate lines.trk lines.tck --bundles truth -o out/old.trk --min_confidence 0.1 --max_mdf 9 --max_mm 100 -f",
    "curate lines.trk outside.trk --bundles truth -o out/o.trk --candidates out/all.trk --sidecar",
    "curate lines.trx outside.trk --labelled -o out/o.trx --min_streamlines 5 --choose random --sidecar",
    "show_loss exps/exp sub-d out/loss --hdf5_file data.hdf5 --percent 20 --batch_size 3",
    "show_loss exps/exp all out --subset training --color_range 0 1 -f",
    "show_attention transformer sub-d --out out/attention --hdf5_file data.hdf5 --streamlines 0 --group encoder",
    "show_attention transformer sub-a --out out --subset training --nb 1 --seed 3 --group cross --point -1 -f",
    "show_tractogram lines.trk out/o.png --background images/mask.nii.gz --views axial --slice_mm 10 --dpi 40",
    "show_tractogram lines.trx lines.tck out/o.svg --separate --color uniform --thickness 3 --max_streamlines 4",
    "visualize_logs exps/exp exps/other --out out/o.png --log_scale loss",
    "visualize_logs exps --save",
    "visualize_logs exps/exp --weights --out out/o.png",
)
NUMBERS = (
    "0",
    "-1",
    "-0",
    "1",
    "2",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "",
    "abc",
    "0x10",
    "1_0",
    "\u0661",
    "1,5",
    "1e",
    " 3",
)
EXTREMES = ("1e300", "-1e300", "1e-300", "1e9", "2147483648", "99999999999999999999", "-99999999999999999999")
# Where a large number is not odd, but long work.
LONG_WORK = (
    *(
        "nb_subjects",
        "min_streamlines",
        "max_epochs",
        "new_max_epochs",
        "nb_cpu_processes",
        "nb_seeds",
        "seeds_per_voxel",
    ),
    *("max_batches_per_epoch_training", "max_batches_per_epoch_validation", "overfit_batches"),
)
TEXTS = (
    *("", " ", ".", "..", "/", "~", "-", "--", "\u00e9", "a b", "../x", "a/b", "%s", "{0}", "\n", "\udcff", "x" * 300),
    *("null", "{}", "[]", '{"a": 1}', '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 3000, "KILL", "SIGUSR2", "1:2", "-f"),
)
# Right for some option, wrong for most.
WORDS = (
    *(
        "all",
        "none",
        "auto",
        "must",
        "never",
        "lstm",
        "axes",
        "grid",
        "nn_embedding",
        "cnn_embedding",
        '{"nb_filters": [4]}',
        "l2-regression",
        "loss",
        "direction",
    ),
    *(
        "sphere-classification",
        "float16",
        "bf16",
        "skip",
        "SGD",
        "OneCycleLR",
        "testing",
        "input",
        "wm_mask",
        "streamlines",
    ),
)
OUTPUTS = ("json", "figure", "save_split", "save_invalid", "report", "out")
# They need the network, or a compiler for minutes; --size large is minutes of work.
LEFT_OUT = (
    "comet_workspace",
    "comet_project",
    "tensorboard",
    "wandb_project",
    "wandb_entity",
    "compile_model",
    "help",
    "size",
)
