//! How much space there is on disk.

use std::path::Path;

use sysinfo::Disks;

/// Bytes free on the disk that holds `path`, which is absolute; none when no disk is known to.
pub fn free_space(path: &Path) -> Option<u64> {
    let disks = Disks::new_with_refreshed_list();
    let holding = disks.iter().filter(|disk| path.starts_with(disk.mount_point()));
    Some(holding.max_by_key(|disk| disk.mount_point().as_os_str().len())?.available_space())
}
