"""From weights to an ONNX file that onnxruntime runs with integer convolutions.

The demo's network is quantized without data, exported in its integer form, compared with the
PyTorch network, and then run by onnxruntime alone, as a program without PyTorch would. Needs
``pip install 'hast_cuda[demo,export]'``.

    python examples/onnx_inference.py          # HAST, about two minutes on one core
    python examples/onnx_inference.py --small  # SQuant, which needs no images: seconds
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

from hast_cuda.data import evaluate, load_images
from hast_cuda.exports import check, onnx_network, save_onnx
from hast_cuda.methods import change, recipe
from hast_cuda.run import Bits, zero_shot_quantize
from hast_cuda.teachers import input_spec
from hast_cuda.teachers.digits import load_digits_network


def main() -> None:
    """Quantize, export, prove, run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--bits", type=int, default=4, help="of weights and activations")
    parser.add_argument("--out", type=Path, help="keep the file here")
    arguments = parser.parse_args()

    network, spec = load_digits_network(), input_spec("digits")
    test = load_images("digits", spec=spec)
    shape = (spec.channels, spec.height, spec.width)
    if arguments.small:
        chosen = recipe("squant")
    else:
        chosen = change(
            recipe("hast"),
            {
                "synthesis.num_images": 512,
                "synthesis.iterations": 200,
                "reconstruction.iterations": 150,
                "finetune.iterations": 150,
                "finetune.batch_size": 128,
            },
        )
    bits = Bits(arguments.bits, arguments.bits)
    done = zero_shot_quantize(network, shape, bits, recipe=chosen)
    print(f"full precision      {evaluate(network, test):.2f} %")
    print(f"quantized           {evaluate(done.student, test):.2f} %")

    with tempfile.TemporaryDirectory() as folder:
        file = arguments.out or Path(folder) / "digits.onnx"
        info = save_onnx(done.student, file, shape, form="ort")
        proof = check(onnx_network(file), done.student, test)
        print(f"layers on integers  {info.integer_layers}")
        print(f"same class          {proof.top1_agreement:.2f} %")

        # From here on without PyTorch: an array in, an array out.
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        correct = 0
        for images, labels in test.batches(100):
            (logits,) = session.run(None, {"images": images.numpy()})
            correct += int((np.argmax(logits, 1) == labels.numpy()).sum())
        print(f"onnxruntime         {100 * correct / len(test):.2f} %")


if __name__ == "__main__":
    main()
