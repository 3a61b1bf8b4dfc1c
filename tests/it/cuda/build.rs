//! Compiles the emulated driver, and kernels as C++, once for each content.

use std::ffi::{CStr, CString, c_char};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, Once, OnceLock};
use std::{env, fs, mem, thread};

use ring::digest::{Context, SHA256};

use super::child;
use super::device::{Argument, Device};

/// Kernels of the product.
pub const PRODUCT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/compute/cuda/kernels");
/// Kernels of the emulator's own tests.
pub const TRIAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda/kernels");

const DRIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda/driver");
const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda/shim");

/// What every file is compiled with.
const FLAGS: &[&str] =
    &["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-pthread"];

/// The driver, and kernels for it, as libraries.
pub struct Emulator {
    /// A folder that has the driver under its name, and nothing else.
    pub folder: PathBuf,
    /// One library for each file of kernels.
    pub kernels: Vec<PathBuf>,
}

impl Emulator {
    /// What a process needs in its environment, so that it finds this driver first, with settings as `tests/cuda/README.md`
    /// lists them.
    pub fn environment(&self, settings: &[(&str, &str)]) -> Vec<(String, String)> {
        let names: Vec<_> = self.kernels.iter().map(|path| path.to_str().unwrap()).collect();
        let inherited = env::var("LD_LIBRARY_PATH").unwrap_or_default();
        let separator = if inherited.is_empty() { "" } else { ":" };
        let kernels = names.join(":");
        let all = settings.iter().copied().chain([("KERNELS", &*kernels)]);
        all.map(|(name, value)| (format!("EMULATED_CUDA_{name}"), value.to_owned()))
            .chain([("LD_LIBRARY_PATH".into(), format!("{}{separator}{inherited}", self.folder.display()))])
            .collect()
    }
}

/// The driver with the kernels of a folder. Nothing, and a word on stderr, where there is no compiler for it.
pub fn emulator(kernels: &str) -> Option<Emulator> {
    // One at a time: tests run beside each other and want the same files.
    static GUARD: Mutex<()> = Mutex::new(());
    let _lock = GUARD.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let compiler = match &*COMPILER {
        Ok(compiler) => compiler,
        Err(reason) => {
            // Bytes of stderr itself, not its macros, whose output is captured: it is seen although tests pass.
            static SAID: Once = Once::new();
            SAID.call_once(|| child::skip("tests of CUDA, without its emulated driver", reason));
            return None;
        }
    };
    let folder = compiler.driver();
    let kernels =
        with_extension(kernels, &["cu"]).iter().map(|source| compiler.kernels(source, &folder)).collect();
    Some(Emulator { folder, kernels })
}

/// Loads the driver with the kernels of a folder into this process, for all its tests; false where it cannot be built.
/// For tests that need no settings and cause no error that stays: those of a whole process have others.
pub fn load_in_process(kernels: &'static str) -> bool {
    if child::is_own() {
        child::skip("a test of this process", "it needs the emulated driver");
        return false;
    }
    static LOADED: OnceLock<Option<&'static str>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        let emulator = emulator(kernels)?;
        let library = CString::new(emulator.folder.join("libcuda.so.1").to_str().unwrap()).unwrap();
        let names: Vec<_> = emulator.kernels.iter().map(|path| path.to_str().unwrap()).collect();
        let (setting, names) = (c"KERNELS", CString::new(names.join(":")).unwrap());
        // SAFETY: the library is the emulated driver, which has this function, and stays loaded: what asks for
        // `libcuda.so` after this gets it by its soname.
        unsafe {
            let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL);
            assert!(!handle.is_null(), "{}", CStr::from_ptr(libc::dlerror()).to_string_lossy());
            let set = libc::dlsym(handle, c"emulator_set".as_ptr());
            let set: extern "C" fn(*const c_char, *const c_char) -> *const c_char = mem::transmute(set);
            assert!(set(setting.as_ptr(), names.as_ptr()).is_null());
        }
        Some(kernels)
    });
    assert!(loaded.is_none_or(|loaded| loaded == kernels), "kernels of another folder are loaded already");
    loaded.is_some()
}

static COMPILER: LazyLock<Result<Compiler, String>> = LazyLock::new(Compiler::find);

struct Compiler {
    program: String,
    /// What it says of itself.
    version: String,
    is_clang: bool,
    folder: PathBuf,
}

impl Compiler {
    fn find() -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Err("it runs on Linux only".to_owned());
        }
        let named = env::var("CXX").ok();
        let candidates = named.iter().map(String::as_str).chain(["c++", "g++", "clang++"]);
        let found = candidates.into_iter().find_map(|program| {
            let output = Command::new(program).arg("--version").output().ok()?;
            output
                .status
                .success()
                .then(|| (program.to_owned(), String::from_utf8_lossy(&output.stdout).into_owned()))
        });
        let (program, version) =
            found.ok_or("there is no C++ compiler (c++, g++, clang++, or what CXX names)")?;
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
        fs::create_dir_all(&folder).unwrap();
        Ok(Self { is_clang: version.contains("clang"), program, version, folder })
    }

    /// The folder with the driver's library.
    fn driver(&self) -> PathBuf {
        let sources = with_extension(DRIVER, &["cpp"]);
        let read = [with_extension(DRIVER, &["cpp", "h", "inc"]), with_extension(SHIM, &["h"])].concat();
        let folder = self.folder.join(format!("driver-{}", self.hash(&read, FLAGS)));
        let library = folder.join("libcuda.so.1");
        if library.exists() {
            return folder;
        }
        let scratch = tempfile::tempdir_in(&self.folder).unwrap();
        let object = |source: &Path| scratch.path().join(source.file_name().unwrap()).with_extension("o");
        let waiting = Mutex::new(sources.iter());
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    loop {
                        let Some(source) = waiting.lock().unwrap().next() else { break };
                        let mut command = self.command(FLAGS);
                        command.args(["-I", SHIM, "-c", "-o"]).arg(object(source)).arg(source);
                        run(command);
                    }
                });
            }
        });
        // The loader takes the one that is loaded already for any `libcuda.so` that is asked for later.
        let mut command = self.command(FLAGS);
        command.args(["-shared", "-Wl,-soname,libcuda.so", "-o"]).arg(scratch.path().join("library"));
        command.args(sources.iter().map(|source| object(source))).arg("-ldl");
        run(command);
        fs::create_dir_all(&folder).unwrap();
        fs::rename(scratch.path().join("library"), library).unwrap();
        folder
    }

    /// The library of a file of kernels.
    fn kernels(&self, source: &Path, driver: &Path) -> PathBuf {
        let stem = source.file_stem().unwrap().to_str().unwrap();
        let mut flags = FLAGS.to_vec();
        // Misaligned accesses and indices out of bounds end a kernel, as the first would on a device.
        flags.push("-fsanitize=alignment,bounds");
        flags.push(if self.is_clang { "-fsanitize-trap=all" } else { "-fsanitize-undefined-trap-on-error" });
        flags.push("-Wno-unknown-pragmas");
        let headers = [with_extension(PRODUCT, &["cuh"]), with_extension(SHIM, &["h"])].concat();
        let read = [&[source.to_owned()], &headers[..]].concat();
        let library = self.folder.join(format!("{stem}-{}.so", self.hash(&read, &flags)));
        if library.exists() {
            return library;
        }
        let scratch = tempfile::tempdir_in(&self.folder).unwrap();
        let text = scratch.path().join("kernels.cpp");
        let names = self.kernel_names(source);
        assert!(!names.is_empty(), "{} has no kernels", source.display());
        let mut registered = format!("#include {source:?}\n#include \"register.h\"\n");
        for name in names {
            writeln!(registered, "EMU_REGISTER({name}, \"{stem}.cu\")").unwrap();
        }
        fs::write(&text, registered).unwrap();
        let mut command = self.command(&flags);
        command.args(["-shared", "-I", SHIM, "-I", PRODUCT, "-include", "kernel.h", "-o"]);
        command.arg(scratch.path().join("library")).arg(&text).arg(driver.join("libcuda.so.1"));
        run(command);
        fs::rename(scratch.path().join("library"), &library).unwrap();
        library
    }

    /// Names of the kernels of a file, also of those that macros make.
    fn kernel_names(&self, source: &Path) -> Vec<String> {
        let mut command = self.command(FLAGS);
        command
            .args(["-E", "-P", "-DEMU_SCAN", "-x", "c++", "-I", SHIM, "-I", PRODUCT, "-include", "kernel.h"])
            .arg(source);
        kernels_in(&run(command))
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(flags);
        command
    }

    fn hash(&self, files: &[PathBuf], flags: &[&str]) -> String {
        let mut context = Context::new(&SHA256);
        context.update(format!("{} {} {flags:?}", self.program, self.version).as_bytes());
        for path in files {
            context.update(format!("{}\n", path.display()).as_bytes());
            context.update(&fs::read(path).unwrap());
        }
        context.finish().as_ref()[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// Of text in which [`kernel.h`](../../cuda/shim/kernel.h) has marked kernels.
fn kernels_in(preprocessed: &str) -> Vec<String> {
    preprocessed
        .split("extern \"C\" emu_global_function void")
        .skip(1)
        .map(|rest| rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

/// Files of a folder, by their names.
pub fn with_extension(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted))
    });
    paths.sort();
    paths
}

/// Runs a compiler; what it writes to stdout.
fn run(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn kernels_are_found_in_preprocessed_text() {
    let text = "extern \"C\" emu_global_function void one(int a) {}\nvoid two();\n\
                extern \"C\" emu_global_function void  three_3 (float* b) {}";
    assert_eq!(kernels_in(text), ["one", "three_3"]);
}

#[test]
fn tests_of_a_process_share_the_driver() {
    child::without_driver(|| {
        if !load_in_process(TRIAL) {
            return;
        }
        let device = Device::open(include_str!("../../cuda/kernels/trial.ptx"));
        let (a, sum) = (device.upload(&[1.5f32; 40]), device.unset::<f32>(40));
        device.run("add", (2, 32, 0), &[a.at(), a.at(), sum.at(), Argument::Int(40)]).unwrap();
        assert_eq!(device.read::<f32>(sum), [3.0; 40]);
    });
}
