#!/usr/bin/env python3
"""Make random blocks of every block type of GGUF, with their values as gguf-py computes them.

    pip install numpy gguf
    python scripts/make_block_vectors.py

tests/data/vectors/blocks.gguf then has, for each type, a tensor of its name and one NAME.values in F32.
"""

from pathlib import Path

import gguf
import numpy as np

OUT = Path(__file__).resolve().parent.parent / "tests/data/vectors/blocks.gguf"

# Where each type has its f16 numbers. The rest of a block may be any bits.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "MXFP4": [], "NVFP4": [], "IQ4_NL": [0], "IQ4_XS": [0],
    "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0], "IQ1_M": [],
    "TQ1_0": [52], "TQ2_0": [64],
}
ELEMENTS = 512


def main():
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(OUT, "blocks")
    for name, halves in HALVES.items():
        dtype = gguf.GGMLQuantizationType[name]
        length, size = gguf.GGML_QUANT_SIZES[dtype]
        blocks = random.integers(0, 256, (ELEMENTS // length, size), dtype=np.uint8)
        for at in halves:
            blocks[:, at:at + 2] = random.normal(0, 0.1, (len(blocks), 1)).astype(np.float16).view(np.uint8)
        if name == "MXFP4":
            blocks[:, 0] = blocks[:, 0] // 4 + 100
            blocks[0, 0], blocks[1, 0] = 0, 1
        if name == "IQ1_M":  # The exponent of its f16 is in the last nibbles: none is that of infinity.
            blocks[:, 55] &= 0xBF
        if name == "NVFP4":
            blocks[:3, 0] = [0, 0x7F, 0xFF]
        values = gguf.quants.dequantize(blocks, dtype)
        assert np.isfinite(values).all(), name
        writer.add_tensor(name, blocks, raw_dtype=dtype)
        writer.add_tensor(f"{name}.values", values.reshape(-1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
