//! Which type each tensor of a file gets.

use std::str::FromStr;

use super::ExportTensor;
use crate::base::dtype::DType;
use crate::format::blocks;
use crate::model::architecture::Role;

/// The types of a file's tensors by their roles; [`Role::Exact`] ones are always F32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Routed experts: almost all bytes of a large model.
    pub experts: DType,
    /// Down of the routed experts in the layers where errors weigh most: the first and last eighth, and
    /// every third between.
    pub experts_raised: DType,
    /// Attention, DeltaNet and shared experts.
    pub trunk: DType,
    /// The sensitive part of the trunk in the same layers.
    pub trunk_raised: DType,
    /// The embedding, where it is not the head too.
    pub embedding: DType,
    /// The head.
    pub head: DType,
}

/// The type a recipe gives to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The type.
    pub dtype: DType,
    /// The type the recipe asks for, where the tensor's rows are no whole number of its blocks.
    pub instead_of: Option<DType>,
}

impl Recipe {
    /// Every matrix in one type.
    pub fn uniform(dtype: DType) -> Self {
        Self {
            experts: dtype,
            experts_raised: dtype,
            trunk: dtype,
            trunk_raised: dtype,
            embedding: dtype,
            head: dtype,
        }
    }

    /// The mix that llama.cpp calls Q4_K_M: Q4_K, and Q6_K for the head and for what is sensitive.
    pub fn q4_k_m() -> Self {
        let (low, high) = (DType::Q4K, DType::Q6K);
        Self { experts_raised: high, trunk_raised: high, head: high, ..Self::uniform(low) }
    }

    /// The mix that llama.cpp calls Q3_K_M: Q3_K, and more bits for what is sensitive.
    pub fn q3_k_m() -> Self {
        let (raised, head) = (DType::Q4K, DType::Q6K);
        Self { experts_raised: raised, trunk_raised: DType::Q5K, head, ..Self::uniform(DType::Q3K) }
    }

    /// The mix that llama.cpp calls Q2_K: Q2_K, and more bits for what is sensitive.
    pub fn q2_k() -> Self {
        let (raised, head) = (DType::Q3K, DType::Q6K);
        Self { experts_raised: raised, trunk_raised: DType::Q4K, head, ..Self::uniform(DType::Q2K) }
    }

    /// The mix that llama.cpp calls IQ3_M: IQ3_S, and more bits for what is sensitive.
    pub fn iq3_m() -> Self {
        let (raised, head) = (DType::Q4K, DType::Q6K);
        Self { experts_raised: raised, trunk_raised: raised, head, ..Self::uniform(DType::Iq3S) }
    }

    /// The mix that llama.cpp calls IQ2_M: IQ2_S for the experts, IQ3_S for the rest, and more bits for what is
    /// sensitive.
    pub fn iq2_m() -> Self {
        let (low, high, head) = (DType::Iq2S, DType::Iq3S, DType::Q5K);
        Self { experts: low, experts_raised: high, trunk_raised: DType::Q4K, head, ..Self::uniform(high) }
    }

    /// The mix that llama.cpp calls MXFP4_MOE: experts MXFP4, the rest Q8_0.
    pub fn mxfp4() -> Self {
        Self { experts: DType::Mxfp4, experts_raised: DType::Mxfp4, ..Self::uniform(DType::Q8_0) }
    }

    /// The type of `tensor` in a model of `layers` layers.
    pub fn choose(&self, tensor: &ExportTensor, layers: usize) -> Choice {
        let weighs_most = weighs_most(tensor.layer.unwrap_or(0), layers);
        let raised = |low, high| if weighs_most { high } else { low };
        let wanted = match tensor.role {
            Role::Embedding => self.embedding,
            Role::Head => self.head,
            Role::Experts => self.experts,
            Role::ExpertsDown => raised(self.experts, self.experts_raised),
            Role::Trunk => self.trunk,
            Role::TrunkSensitive => raised(self.trunk, self.trunk_raised),
            Role::Exact => DType::F32,
        };
        let dtype = fitting(wanted, tensor.shape.last().copied().unwrap_or(0));
        Choice { dtype, instead_of: (dtype != wanted).then_some(wanted) }
    }

    /// What `general.file_type` says of such a file (the numbers of llama.cpp's `llama_ftype`). It is for
    /// display; every tensor tells its own type.
    pub fn file_type(&self) -> u32 {
        match self.experts {
            DType::F16 => 1,
            DType::Q4_0 => 2,
            DType::Q4_1 => 3,
            DType::Q8_0 => 7,
            DType::Q5_0 => 8,
            DType::Q5_1 => 9,
            DType::Q2K => 10,
            DType::Q3K if self.experts_raised == DType::Q3K => 11,
            DType::Q3K => 12,
            DType::Q4K if self.experts_raised == DType::Q4K => 14,
            DType::Q4K => 15,
            DType::Q5K if self.experts_raised == DType::Q5K => 16,
            DType::Q5K => 17,
            DType::Q6K => 18,
            DType::Iq4Nl => 25,
            DType::Iq3S if self.experts_raised == DType::Iq3S => 26,
            DType::Iq3S => 27,
            DType::Iq2S if self.experts_raised == DType::Iq2S => 28,
            DType::Iq2S => 29,
            DType::Iq4Xs => 30,
            DType::BF16 => 32,
            DType::Mxfp4 => 38,
            _ => 0,
        }
    }
}

/// Parses the name of a mix (`q4_k_m`, `q3_k_m`, `q2_k`, `iq3_m`, `iq2_m`, `mxfp4`) or of a type for every matrix, whatever the case.
impl FromStr for Recipe {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "q4_k_m" => Ok(Self::q4_k_m()),
            "q3_k_m" => Ok(Self::q3_k_m()),
            "q2_k" => Ok(Self::q2_k()),
            "iq3_m" => Ok(Self::iq3_m()),
            "iq2_m" => Ok(Self::iq2_m()),
            "mxfp4" => Ok(Self::mxfp4()),
            other => exportable(other).map(Self::uniform).map_err(|error| {
                format!("{name:?} is neither a mix (q4_k_m, q3_k_m, iq3_m, q2_k, iq2_m) nor a type: {error}")
            }),
        }
    }
}

/// Parses the name of a type that GGUF has, whatever the case.
pub fn exportable(name: &str) -> Result<DType, String> {
    match name.parse()? {
        DType::F8E4M3 => Err(format!("GGUF has no type {}; q8_0 holds its values best", DType::F8E4M3)),
        dtype if blocks::is_writable(dtype) => Ok(dtype),
        dtype => {
            let known = blocks::WRITABLE.map(|dtype| dtype.to_string().to_lowercase()).join(", ");
            Err(format!("{dtype} is only read; written are {known}"))
        }
    }
}

/// The layers to which llama.cpp's mixes give more bits (`use_more_bits` in its `llama-quant.cpp`).
fn weighs_most(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// `wanted`, or where rows of `cols` elements are no whole number of its blocks, the next best type: the one
/// llama.cpp takes, or F16.
fn fitting(wanted: DType, cols: usize) -> DType {
    let smaller = match wanted {
        DType::Q4K => DType::Q5_0,
        DType::Q5K | DType::Q6K => DType::Q8_0,
        DType::Q2K | DType::Q3K | DType::Iq2S | DType::Iq3S | DType::Iq4Xs => DType::Iq4Nl,
        other => other,
    };
    [wanted, smaller].into_iter().find(|dtype| dtype.bytes(cols).is_some()).unwrap_or(DType::F16)
}
