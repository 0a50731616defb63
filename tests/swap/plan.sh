#!/bin/sh
# A plan made without nnu-plan: decided by hand, constants from the built-in recipe.   plan.sh FOLDER
set -eu
recipe=$(dirname "$0")/../../crates/plan/recipes/paper.toml
setting() { sed -e "s/^$1 = .*/$1 = $2/"; }
{
cat << END
[artifact]
kind = "plan"
version = 3

[dataset]
name = "by hand"
training_cases = 6
file_ending = ".nii.gz"

[geometry]
transpose = [0, 1, 2]

[[channels]]
name = "MRI"
normalisation = "z_score"
intensity = { mean = 0.0, sd = 1.0, min = 0.0, median = 0.0, max = 0.0, percentile_00_5 = 0.0, percentile_99_5 = 0.0 }

[[labels]]
name = "background"
value = 0

[[labels]]
name = "capsule"
value = 1

[[labels]]
name = "core"
value = 2

[configurations.3d_fullres]
spacing_mm = [3.0, 1.2, 1.2]
keep_slice_distance = false
median_shape = [8, 20, 20]
patch_shape = [8, 16, 16]
batch_size = 2
batch_dice = false

[configurations.3d_fullres.network]
input_channels = 1
output_channels = 3
features = [4, 8]
kernels = [[1, 3, 3], [3, 3, 3]]
strides = [[1, 1, 1], [1, 2, 2]]
encoder_convs = [2, 2]
decoder_convs = [2]
deep_supervision = false
negative_slope = 0.01
norm_epsilon = 1e-5

[recipe]
END
sed -e 's/^\[/[recipe./' "$recipe" | setting epochs 2 | setting iterations_per_epoch 3 | setting validation_iterations 2
} > "$1/plan.toml"
cat > "$1/splits.toml" << END
[artifact]
kind = "splits"
version = 1

[[folds]]
train = ["phantom_000", "phantom_001", "phantom_002", "phantom_003"]
validation = ["phantom_004", "phantom_005"]
END
