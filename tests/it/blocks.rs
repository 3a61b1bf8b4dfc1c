//! Blocks of every type against the values that gguf-py computes from them (`scripts/make_block_vectors.py`).

use std::path::Path;

use fimd::base::dtype::DType;
use fimd::format::{ModelDir, blocks};

#[test]
fn blocks_have_the_values_of_gguf_py_bit_for_bit() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors/blocks.gguf");
    let dir = ModelDir::open(&path).unwrap();
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_blocked()) {
        let stored = dir.tensor(&dtype.to_string()).unwrap();
        let expected = dir.tensor(&format!("{dtype}.values")).unwrap();
        assert_eq!((stored.dtype, expected.dtype), (dtype, DType::F32));
        let [mut values, mut of_gguf_py] = [(); 2].map(|()| vec![f32::NAN; expected.shape[0]]);
        blocks::to_f32(stored.dtype, &stored.bytes, &mut values);
        blocks::to_f32(DType::F32, &expected.bytes, &mut of_gguf_py);
        for (i, (value, expected)) in values.iter().zip(&of_gguf_py).enumerate() {
            assert_eq!(value.to_bits(), expected.to_bits(), "{dtype}, element {i}: {value}, not {expected}");
        }
    }
}
