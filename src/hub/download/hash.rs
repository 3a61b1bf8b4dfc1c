//! The checksum of a file, computed on a thread of its own while the file is read or written.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use ring::digest::{Context, SHA256};

/// Bytes of a block.
const BLOCK_BYTES: usize = 1 << 18;
/// Blocks on their way.
const BLOCKS_MAX: usize = 8;

/// Takes blocks, and gives the SHA-256 of all of them.
pub(super) struct Hasher {
    blocks: SyncSender<(Vec<u8>, usize)>,
    spare: Receiver<Vec<u8>>,
    worker: JoinHandle<String>,
}

impl Hasher {
    pub(super) fn start() -> Self {
        let (blocks, taken) = mpsc::sync_channel::<(Vec<u8>, usize)>(BLOCKS_MAX);
        let (give, spare) = mpsc::channel();
        let work = move || {
            let mut hash = Context::new(&SHA256);
            for (block, length) in taken {
                hash.update(&block[..length]);
                // Nobody needs it any more when this fails.
                let _ = give.send(block);
            }
            hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let worker = thread::Builder::new().name("fimd-hash".into()).spawn(work);
        Self { blocks, spare, worker: worker.expect("the system can start a thread") }
    }

    /// A block to fill.
    pub(super) fn block(&self) -> Vec<u8> {
        self.spare.try_recv().unwrap_or_else(|_| vec![0; BLOCK_BYTES])
    }

    /// Takes the first `length` bytes of a block.
    pub(super) fn take(&self, block: Vec<u8>, length: usize) {
        self.blocks.send((block, length)).expect("hashing does not panic");
    }

    /// In lower-case hexadecimal.
    pub(super) fn finish(self) -> String {
        drop(self.blocks);
        self.worker.join().expect("hashing does not panic")
    }
}
