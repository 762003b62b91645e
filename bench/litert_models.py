"""An ONNX network as TFLite files, float and int8, for LiteRT; needs onnx2tf and tensorflow, best apart from the rest.

Writes ``<stem>_float32.tflite`` and ``<stem>_full_integer_quant.tflite`` (int8 images, int8 weights per channel,
ranges of noise) to a folder.

    python bench/litert_models.py plain.onnx folder
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

IMAGES = 8


def convert(source: Path, folder: Path) -> None:
    """Both files; what onnx2tf would download, example images, is replaced by noise."""
    import onnx  # noqa: PLC0415 - of the environment of the conversion
    import onnx2tf  # noqa: PLC0415

    entry = onnx.load(source).graph.input[0]
    channels, height, width = (d.dim_value for d in entry.type.tensor_type.shape.dim[1:])
    noise = np.random.default_rng(0).standard_normal((IMAGES, height, width, channels)).astype(np.float32)
    for module in list(sys.modules.values()):
        if getattr(module, "download_test_image_data", None) is not None:
            module.download_test_image_data = lambda: noise  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as temporary:
        images = Path(temporary) / "images.npy"
        np.save(images, noise)
        zeros, ones = np.zeros((1, 1, 1, channels)).tolist(), np.ones((1, 1, 1, channels)).tolist()
        onnx2tf.convert(
            input_onnx_file_path=str(source),
            output_folder_path=str(folder),
            output_integer_quantized_tflite=True,
            custom_input_op_name_np_data_path=[[entry.name, str(images), zeros, ones]],
            not_use_onnxsim=True,
            batch_size=1,
            non_verbose=True,
        )


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
