//! Modules are refused where a device would refuse them, or where the PTX is of another text.

use super::build::TRIAL;
use super::child;
use super::device::{Device, code, emulator};

const PTX: &str = include_str!("../../cuda/kernels/trial.ptx");

/// Loads a changed text; the driver's number, and why.
fn load(ptx: &str) -> (u32, String) {
    let code = code(Device::try_open(ptx));
    let why = emulator::explanation();
    emulator::forget_errors();
    (code, why)
}

/// The committed text with one thing replaced, which it has.
fn replaced(from: &str, to: &str) -> String {
    assert!(PTX.contains(from), "{from:?}");
    PTX.replacen(from, to, 1)
}

#[test]
fn text_that_a_driver_or_device_cannot_take_is_refused() {
    child::with_driver(TRIAL, &[("DRIVER", "12020"), ("CAPABILITY", "8.6")], || {
        assert_eq!(load(PTX).0, 0);
        for (version, expected) in [("8.2", 0), ("8.3", 222), ("8.7", 222), ("9.0", 222), ("7.8", 0)] {
            assert_eq!(
                load(&replaced(".version 8.0", &format!(".version {version}"))).0,
                expected,
                "{version}"
            );
        }
        for (target, expected) in [("sm_75", 0), ("sm_86", 0), ("sm_89", 209), ("sm_90a", 209)] {
            assert_eq!(
                load(&replaced(".target sm_80", &format!(".target {target}"))).0,
                expected,
                "{target}"
            );
        }
        assert_eq!(load("something else").0, 218);
    });
}

#[test]
fn text_of_another_source_is_refused() {
    child::with_driver(TRIAL, &[], || {
        let (code, why) = load(&replaced(".entry add(", ".entry add_all("));
        assert_eq!(code, 200);
        assert!(why.contains("kernel add_all"), "{why}");
        let (code, why) = load(&replaced(".param .u32 add_param_3", ".param .u64 add_param_3"));
        assert_eq!(code, 200);
        assert!(why.contains("8, 8, 8, 8 bytes, those in trial.cu 8, 8, 8, 4"), "{why}");
    });
}

#[test]
fn an_old_device_takes_nothing() {
    child::with_driver(TRIAL, &[("CAPABILITY", "7.5")], || {
        assert_eq!(load(PTX).0, 209);
    });
}
