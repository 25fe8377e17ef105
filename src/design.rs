//! The invariants, the format on disk, and the decisions with their reasons. This module has no code.
//!
//! # Invariants
//!
//! 1. An acknowledged change survives the death of any process, and with `durability = commit` a power cut. A change
//!    that was not acknowledged is done whole or not at all.
//! 2. A row that the database calls durable is complete on disk. The disk may hold more ids than the database names,
//!    never fewer.
//! 3. An id is given once. A directory `s/<id>` without a row is debris and may be removed, if the row was looked for
//!    in a write transaction that began after the directory was seen.
//! 4. A committed snapshot never changes, and neither does its parent. Its ancestors exist as long as it does.
//! 5. A transaction does no file-system work except a few system calls that wait for nothing. So no process waits for
//!    the copy, removal or sync of another one.
//! 6. A row that is not `ready` names a worker, and so does a row that is held. A worker is alive as long as its file
//!    in `run/` is locked.
//! 7. The same edits give the same layer, byte for byte, on every strategy. A fast path only narrows what is compared.
//! 8. No link inside a snapshot is followed, because its content is untrusted.
//!
//! # On disk
//!
//! ```text
//! <root>/               0700
//!   strata.db           SQLite in WAL mode; application_id "stra", user_version the format
//!   s/<id>/             a snapshot: overlay fs/ and work/, copy fs/ and manifest, btrfs the subvolume itself
//!   s/userxattr         overlay: layers use user.overlay.*, because the store was made in a user namespace
//!   s/<id>.new          a snapshot that is not finished yet; s/<id>.now (btrfs): a copy of an active one, for reading
//!   streams/<id>.zst    the tar-split data of the layer that s/<id> was made from
//!   run/<inode>-<time>  a worker: a process that changes the store, with its lock on it
//!   run/container/      each process mounts the workplace of its containers here, in a mount namespace of its own
//!   run/drain, recover  the locks of the process that frees space, and of the one that recovers
//!   run/daemon-<digest> the lock of the daemon of an owner, by a digest of the owner's name; its text names the holder
//!   cache/<digest>/     files of RUN --mount=type=cache; a process that uses them has a shared lock on it
//! ```
//!
//! ## The database, format 4
//!
//! Times are nanoseconds since 1970.
//!
//! | table | column | meaning |
//! |---|---|---|
//! | `snapshot` | `row` | the number of the row; given again after the row is deleted |
//! | | `id` | the directory `s/<id>`; never given again |
//! | | `owner`, `name` | together unique; the key or name |
//! | | `kind` | 1 view, 2 active, 3 committed |
//! | | `state` | 0 ready; 1 creating: holds its key, not visible; 2 claimed: visible, a commit or an apply works on it; 3 reserved: holds the name that a commit to a fresh id will give |
//! | | `parent` | the row of the parent |
//! | | `worker` | worker that has it in work; of a ready row: worker that holds it for an image without a name yet |
//! | | `created`, `updated` | time at which it was made or committed; time of the last change of its labels |
//! | | `size_bytes`, `inodes` | the usage at the commit |
//! | | `durable` | 0 while a power cut may take the content |
//! | | `voucher` | may set `durable`: NULL the process that commits; a worker and the id of its write; '' no process |
//! | | `origin` | 1 a layer of an image: `gc` may remove it; 0 a user or a client named it |
//! | | `id_map` | the ids of the user namespace that an active snapshot or a view was made for, `UIDS/GIDS`; NULL for none |
//! | | `diff_id` | the digest of the layer that the snapshot was made from |
//! | `label` | `snapshot`, `name`, `value` | the labels of a snapshot |
//! | `image` | `owner`, `name` | together unique |
//! | | `config`, `manifest` | digests of documents |
//! | | `top` | the row of the topmost layer |
//! | | `created` | time at which the store recorded the image |
//! | `document` | `digest`, `bytes` | configs and manifests, byte for byte |
//! | `step` | `owner`, `digest` | together unique; the digest of everything that a build step depends on |
//! | | `top` | the row of the snapshot after the step |
//! | | `layer_bytes` | the length of the layer that the step made; NULL if the step changed nothing |
//! | `trash` | `id` | ids whose space is to be freed |
//! | `setting` | `name`, `value` | `backend`, `durability`, `next_id`, `boot_id`; `lost_log` while part of the log may be lost |
//!
//! ## Tar-split data, format 1
//!
//! From this data and the snapshot's tree the layer can be written again, byte for byte. The format is in
//! `changeset/tar_split.rs`; its first line names the version. The data is made while the layer is applied. It belongs
//! to the id, and is on disk before the row with the DiffID is published. It is removed with its id, or as debris
//! without a row.
//!
//! # Decisions
//!
//! ## The store
//!
//! - **Documents lie in the database, not in `blobs/`.** An image and its documents are added and removed in one
//!   transaction. Files beside the database would need an order of writing, and a collector that does not race with an
//!   import. Documents are small: a few kilobytes each.
//! - **Rows are reserved relaxed and published durably.** A power cut that takes a reservation takes nothing that was
//!   acknowledged, and a sync is most of the cost of a transaction. A durable transaction brings all earlier ones to
//!   disk too, because they are in the same log.
//! - **A snapshot that takes a few system calls is made in the transaction that publishes it** (overlay's empty upper
//!   directory, a view). A separate reservation cost more than making the directories. No process takes the new
//!   directory for debris, because debris is looked for in a write transaction, which waits for this one. If this
//!   transaction fails, the id is free again, so the directory is removed in another write transaction.
//! - **In place or to a fresh id.** overlay and copy commit in place: no file has to move, and the path of a layer
//!   stays the same. btrfs commits to a fresh id: the read-only flag on the active subvolume would neither stop a
//!   process that has a file open for writing nor flush data.
//! - **A commit in place reserves no name**, only its snapshot. If two calls want one name, the first to publish gets
//!   it, and the other one fails at its end, as with containerd's own snapshotters. A row for the name, made and
//!   deleted again, was most of the work of such a commit in the database. A commit to a fresh id needs a row, which
//!   shows that the id is in use.
//! - **The order of recovery**: list the disk; in one transaction, end the rows of dead workers, after a boot drop rows
//!   that were not durable and their descendants, and put directories without a row into the trash; make missing
//!   directories again; write the boot id; remove the lock files of dead workers. Each step may be repeated. Only the
//!   last two steps keep the next process from repeating the others, so after a crash or failure the next process does
//!   all steps again. Recoveries take turns.
//! - **The disk is listed before the database is read.** A row is written before its directory is made, or in the same
//!   transaction. So a directory that was listed and then has no row is debris. If the database were read first, a
//!   directory without a row could be a new one.
//! - **A worker is dead if its lock can be taken, or if its file is gone.** A process that ends without a crash may
//!   leave rows: the layers of an import that failed, or a failed call that a full disk kept from ending its row. Such
//!   rows outlive the lock file, and inode numbers are used again at once, so the name of a lock file has the time too.
//! - **A failed call frees its space before it ends its row**, because on a full disk the database may need that space.
//!   If the row still cannot be ended, the process ends it before its next change.
//! - **`sync` vouches for (id, kind)**, not for row numbers: during the sync a row number may be given to another
//!   snapshot, and an active snapshot of the list may be written to and committed in place under the same id.
//! - **`apply` claims its snapshot as a commit does.** It writes through a detached mount, which no mount table shows.
//!   Without the claim, a commit at the same time would publish a layer that still changes.
//! - **A view of a committed snapshot has no directory.** A mount of the view shows the directories of its parent, so
//!   the check for mounts is made when the parent is removed. That suffices, because only the layers have to stay.
//! - **Removal is a row in the trash.** One process at a time frees the space (the drain), and a second one returns at
//!   once. A drain with a time limit may stop inside a snapshot: the rest stays in the trash, as after a crash. A copy
//!   that finds the disk full drains the trash and is tried once more. The lock files for that are made with the store,
//!   because on xfs a full disk may have no room for a new file.
//! - **A removal on a full disk uses a reserve**, files of allocated blocks in `reserve/` (`store/reserve.rs`): the
//!   database's log, its index in shared memory and inodes need room before any space is freed. A removal is tried
//!   without the reserve first, then with one file less each time. There are eight files, so that another process that
//!   takes the space of the first file does not take all of it. The reserve is at most a 64th of the free space (a 16th
//!   on a small disk) and 16 MiB, and is made again only if that much is free.
//! - **The database's log is allocated when a store is made** (4.5 MiB, at most a 16th of the free space), and
//!   database, log and index are written in place on btrfs too. So a removal mostly needs no new space, and no other
//!   process can take the space of the log.
//! - **A removal has no lock file.** It leaves no row in work, and a full file system may have no inode for a lock
//!   file.
//! - **On a nearly full btrfs a removal has the kernel free destroyed subvolumes at once** (`BTRFS_IOC_START_SYNC`,
//!   which wakes the thread that frees them). Without that, the kernel begins up to 30 s later, and the next call would
//!   find no space.
//! - **SQLite syncs the log by `fdatasync`** (`.cargo/config.toml` tells SQLite that the call exists). A log of full
//!   length is written in place, so the file system has no journal to write for the sync. Such a journal would also
//!   have brought the directories of an empty snapshot to disk: after a power cut, recovery makes them again.
//! - **A prepare and a commit keep clear of statements for which SQLite makes tables in memory**: recursive queries,
//!   `RETURNING`, lists of values in a `CHECK`. Those took most of the time of a transaction, in page faults. The
//!   pragma `synchronous` is set only when the level changes.
//! - **The writeback of all files of a layer is started before the first `fsync`**: on ext4 and xfs one journal
//!   transaction then has all of them. This is done for at most 256 files, with a call for each; a larger layer takes a
//!   `syncfs`.
//! - **The table of mounts is read when it has changed**: the kernel formats the table for every reader, a line for
//!   each mount of the machine. Reading it took a third of a commit on a machine with twenty mounts.
//! - **The log is not written back on close**: each short process that is the last one to close the database would wait
//!   for two more syncs. SQLite writes the log back whenever it has grown to 1,000 pages.
//! - **A transaction that failed is written over.** If only the sync fails, SQLite reports a failure, but the log has
//!   the whole transaction. The next process, which reads the log anew, would find the row of a failed call, but not
//!   the directory, which the call has removed. So a transaction that skips an id is written in its place.
//! - **`strata.db-shm` is made before SQLite makes it**, with the flag C (write in place). On a full btrfs the kernel
//!   otherwise kills a process that writes to the mapped file, because a page that is written again needs new space.
//! - **A failed sync is noted in the rows that it may concern**, before the call returns its error: the kernel reports
//!   a lost write once to each descriptor that was open then, and a later sync of the same pages succeeds
//!   (`store/vouch.rs`). Only the worker that wrote a row, or a handle that was open before, marks the row durable. A
//!   layer that no process may mark durable is dropped and written again; a commit of an active snapshot is refused
//!   until the next boot. The note itself needs no sync: it is read from the page cache, as the lost pages are, and a
//!   boot drops all rows that are not durable in any case.
//! - **A log of which a sync failed is begun anew**, by the next durable transaction of any process. The frames of
//!   earlier relaxed transactions precede it in the log, and a lost frame ends the log. Writing the same blocks again
//!   does not suffice: ext4 shows zeros there after a mount if their first write failed.
//! - **A log that is found in a store which is not made yet is begun anew**: a sync of the log may have failed in the
//!   process that left it, and no table has a place for that note yet. `PRAGMA journal_mode = wal` is read to its
//!   second row, because SQLite returns the first row before the switch is on disk, and reports a failure with the next
//!   row.
//! - **The layers of a dead worker are dropped** if they are not durable, because the kernel may have reported a write
//!   error to that worker. An import or a build that fails or is cancelled first brings its finished layers to disk, so
//!   that the next one finds them.
//! - **An image waits for layers of another process**, up to two minutes, instead of calling them durable. A commit or
//!   a prepare on such a layer is refused (`Unavailable`).
//! - **btrfs is synced after a seal**: the kernel makes the snapshot even if content of the active one could not be
//!   written, and only `syncfs` reports that.
//! - **A disk of which every flush failed forgets its cache in the tests** (`tests/crash/failing.rs`): the replay drops
//!   all writes that no earlier flush brought to disk. A disk that kept them would hide rows that are durable too
//!   early.
//! - **The matrix of failed syncs finds the syncs by a trace** (`tests/crash/syncs.rs`): each `fsync`, `fdatasync`,
//!   `syncfs`, `sync_file_range` and each request to btrfs that waits. A list by hand would miss a new sync. A
//!   synchronous write (`O_SYNC`) fails the test of the trace.
//! - **`doctor` knows whether SQLite waits by `fdatasync` from the environment of the build**: SQLite does not report
//!   it (`PRAGMA compile_options` lacks it), and a crate cannot set the flags of another crate's build.
//! - **Two write errors go unnoticed**: an error before the commit that the kernel has already reported elsewhere (to a
//!   container by its own `fsync`, to another program by `syncfs`), and an error whose commit is killed between the
//!   kernel's report and the note.
//! - **A snapshot that can be committed can be read**: overlay takes 500 layers, including the upper of an active
//!   snapshot, although the kernel would mount an upper over 500 lowers.
//! - **A check reads the disk before and after the database**, and blocks no other process. A missing directory is a
//!   finding only if its row is still there afterwards, and a directory without a row only if both listings have it. So
//!   a snapshot that is being made or freed is no finding.
//! - **A repair removes only layers that an import brings again**: a damaged layer that came with an image is removed
//!   with its descendants and their images, unless one of the descendants did not come with an image. Other damage is
//!   reported, and left to its owner.
//! - **A deep check reads whole trees**, even if a strategy has a hint: its purpose is to find changes that no call
//!   made. A digest that a check recorded is of strata's own encoding, so another digest means that content changed. An
//!   imported layer is verified in the encoding of its tar-split data. That proves only the contents of its files,
//!   because everything else comes from the tar-split data. So the layer is applied once more to its parent, and both
//!   trees are compared. Only the two uppers are read for that, however many layers lie below. Without space for that,
//!   the layer is reported as not compared, not as sound.
//!
//! ## Layers
//!
//! - **A tree without a parent is compared with an implied root**: an empty directory, 0755 0:0, mtime 0. So an
//!   untouched empty snapshot makes an empty layer on every strategy, and a changed root directory is an entry.
//! - **A name of 252 to 255 bytes that vanishes** has no whiteout: `.wh.` and the name are longer than a name may be.
//!   Its directory becomes opaque, and the layer has the remaining entries of the directory again.
//! - **Extended attributes that do not belong in a layer** are left out by one list: the state of overlayfs
//!   (`trusted.overlay.*`, `user.overlay.*`), the second names by which xfs lists access control lists
//!   (`trusted.SGI_ACL_*`), properties of btrfs (`btrfs.*`), `security.selinux`, `system.nfs4_acl`.
//! - **Tar-split data records where the content of a layer is, not a copy.** If a later entry of the same layer
//!   replaces or removes a file, its content is saved in the data at that moment. To write the layer, the data is read
//!   once for such contents and a second time for the archive. A written layer with another DiffID than before is
//!   always an error.
//! - **`apply` keeps no tar-split data.** Only an importer knows that the snapshot has no other changes, because mounts
//!   in other namespaces cannot be seen. containerd's differ applies a layer, and another call commits the snapshot.
//!   There the tar-split data is used if the name of the commit is the ChainID of the layer on its parent: by that name
//!   the client says that the snapshot is exactly this layer. If the snapshot is not, a deep check reports it as
//!   damaged.
//! - **A gzip blob is a series of members**, one for each mebibyte, compressed by libdeflate on every core. One member
//!   of joined blocks was tried with zlib-rs: for binaries it was 2 % longer than `gzip -6` at the required speed, and
//!   1 % longer at half of that speed. With libdeflate, whose blocks cannot be joined, layers are 0.3 to 1.6 % shorter,
//!   at 2.5 times the speed of zlib. By RFC 1952 a series of members is one file, and lazily pulled layers (eStargz)
//!   have this form too.
//! - **A hint names paths, and nothing else.** The comparison asks the hint for names in each directory, reads those
//!   entries, and decides about changes as it does without a hint. It does not read an entry that the hint does not
//!   name: a device 0:0 that the parent already had is refused only by a walk of both trees. A layer of the difference
//!   does not have that device.
//! - **Hard links can lead to paths that a hint does not name**: a moved directory may have one name of an inode while
//!   other names stayed in place. The strategy is asked for those other names (btrfs keeps them with the inode, the
//!   walk of a copy notes them). On overlayfs one upper has all names of an inode.
//! - **A hint is valid, or there is none.** The strategy checks before the comparison whether its knowledge is about
//!   this parent and this boot. If not, it returns [`crate::changeset::Candidates::All`].
//! - **A view has no changes against its parent**, so a comparison of the two reads neither tree.
//! - **An import is a pipeline of four threads**: read and digest the blob, decompress, digest the plain stream, and
//!   parse and write on the caller's thread. On two cores the first three together take about as long as the last. More
//!   speed would need parallel inflation, which with two threads is no faster than zlib-rs with one. Layers are still
//!   applied in order, because a layer can need files of the layers below it.
//! - **A damaged blob is read to its end**, so that its digest shows the damage. A blob beyond a limit is not read to
//!   its end, and a blob whose caller has failed is not decompressed further.
//! - **The memory for an applied layer is bounded by the lower tree, not by the layer**: in a directory without entries
//!   of the lower tree, every entry is known to be the layer's. If the attributes of directories that are set last take
//!   more than 8 MiB, some are set early. Later entries then treat these directories like those of the lower tree, and
//!   restore their times.
//! - **Writeback starts with a `syncfs` beside the work**, every 128 MiB: `sync_file_range` would take a call for every
//!   file, and has no effect on btrfs. Data is durable only after the sync at the end. That sync uses another
//!   descriptor, which gets every error that the first one got.
//! - **Removals apply first, at any place in the layer, to the targets of hard links too.** The specification says so
//!   only of whiteouts. If the whiteout of a lower file follows a link to that file, the link is undone, and waits for
//!   an entry of the layer with the target's name. Otherwise the same entries in another order would give another tree.
//! - **An archive that two readers of tar could read differently is refused**: two names for an entry, a NUL inside a
//!   GNU long name, a header behind a single zero block. A scanner and a runtime must see one image.
//! - **Holes are zeros in a layer that strata encodes.** A canonical layer depends on content alone, so the same edits
//!   have one DiffID on every file system, wherever a file system has holes. Runs of zeros could become holes by a rule
//!   about content, but readers of tar disagree most about sparse entries, and some unpack them wrong without an error.
//!   The digest has to cover the zeros in any case: 16 GiB of holes took 20 s of a processor in a debug build. So the
//!   layer is dense, and its length is bounded instead: beyond 1 TiB of files (`EmitOptions::content_bytes_max`, the
//!   most that an import takes) it is refused before the file is read. A commit writes no layer and has no such bound,
//!   and an imported sparse layer is exported unchanged.
//! - **The work of an apply has no limit**: it is in proportion to the layer by construction (`changeset::apply`),
//!   which a test checks by counting. A limit would have to guess how large a directory may be.
//! - **The command line sets three limits** (entries, bytes, ratio), because an honest layer can reach them. No honest
//!   layer needs a longer PAX header or a wider zstd window than the constants allow.
//!
//! ## Rules without examples
//!
//! `conformance::layers` has an example for each rule of the checklist of layer semantics, except for these.
//!
//! - **32** (a link where the file system has no room for more names): the limit depends on the file system, 65,000 on
//!   ext4 and none on xfs, so no single result is right. Apply reports it and never copies instead (its tests reach the
//!   limit).
//! - **56** (a file that vanishes or changes while a layer is written): no sequence of calls can show it. A committed
//!   snapshot does not change, and a change that is noticed in an active one is an error (tests of `changeset::diff`).
//! - **57** (a file that grows while it is written): the same; the encoder takes exactly the size that its header says,
//!   and anything else is an error.
//! - **58** (`/etc/hosts`, `/dev` and other places where a runtime mounts): a snapshot knows no runtime. The program
//!   that runs containers mounts over existing paths and removes the mounts again.
//!
//! ## Images
//!
//! - **An image is exported with its original manifest** if its blobs have the original digests. Blobs that are
//!   compressed otherwise have other digests, and so the manifest changes. Config, DiffIDs and image ID are the same in
//!   any case. Unknown fields of a manifest are kept, except annotations about the bytes of one blob.
//! - **A config is read in two ways** ([`crate::oci::config`]): an import needs the layers and the history and refuses
//!   no image for another field, and a build needs every field and keeps the unknown ones. Layers, history, media types
//!   and `null` are the same type in both.
//! - **A source of images is one trait** for the files of a layout and for a registry: the rules by which documents and
//!   layers make an image, and the import, do not depend on the source.
//! - **The whole name of an image is its `ref.name`**, and also containerd's annotation, which its client reads. In a
//!   docker archive the name is a tag if docker accepts it, with `:latest` if it has no tag; otherwise the archive has
//!   no tag.
//! - **An export appears by one rename.** A directory must be new or empty: other files would not belong to the image.
//! - **`rmi` refuses an image on which containers or other images are built**, unless the image has a second name. A
//!   container that is prepared during the `rmi` keeps the layers: only the name of the image is gone.
//! - **Registries are asked through `ureq`, not through `oci-client`**: a blob goes from the socket straight into
//!   unpacking, whose threads read from blocking readers. `oci-client` would need an asynchronous runtime and a bridge
//!   from its streams to readers, and has its own types of a manifest. `ureq` blocks, is small, and brings rustls and
//!   proxies. It leaves headers to the caller, which ranges, `Retry-After` and challenges need. The distribution
//!   specification has only a few requests.
//! - **Four layers are downloaded at once, each into a queue of 8 MiB**, and unpacked in order: 32 MiB for any image. A
//!   layer with a full queue keeps its connection open. If the connection breaks meanwhile, the download is resumed by
//!   range.
//! - **Threads of downloads are not joined**: a silent connection would delay a command that is to stop. A thread ends
//!   when the reader of its queue has been dropped.
//! - **Plain HTTP is tried on loopback only**, and only where HTTPS gets no answer at all: a wrong certificate or a
//!   refused request does not lead to plain HTTP.
//! - **A registry's credentials are not shown to its mirrors**, and follow no redirection to another host.
//! - **All documents that are read to find one image may have 64 MiB together**, and each 4 MiB. If an index does not
//!   name the platforms of its images, each image is read, and an index can name one document 40,000 times. The layers
//!   of an image are counted before one of them is read for its digest.
//!
//! ## Strategies
//!
//! - **A layer without changes is a copy on the copy strategy.** A row without a directory of its own, an alias of its
//!   parent, would save that. But the trash, the vouchers, the tar-split data, the hints, recovery and the check refer
//!   to ids, and rely on one row for each id: the format of the store and all of these would change. Hard links are not
//!   possible, because a write to one layer would change the other. Reflinks (`--clone`) share the blocks already, if
//!   the file system has them. A build makes no layer for a step without changes, and an imported image has at most 128
//!   layers.
//! - **A strategy is a folder and an entry of the table in [`crate::backends`].** The entry has everything that a
//!   program needs besides the [`crate::backend::Backend`]: name, options, the variants that are compared one by one,
//!   and their file systems. Command line, `compare` and `conformance` read the table; a program of another crate adds
//!   an entry, and its strategy appears in all three.
//! - **A setting is one type**, [`crate::backends::Setting`]: a strategy, values of its options, and a file system.
//!   `compare`, `conformance`, suites and benchmarks take settings from the table; so they are listed once.
//! - **A hint is a trait, not a list of kinds**: a comparison asks it for names and knows no strategy.
//! - **btrfs counts usage by generation.** A simple quota charges an extent to the subvolume that wrote it, which is
//!   the active one and is removed after the commit. Exact quota groups cost every writer on the file system.
//! - **btrfs makes an empty snapshot under its last name**, not under another with a rename: after the rename of a
//!   subvolume every fsync commits the whole file system until the next commit. A power cut can then take the
//!   attributes of the empty directory; recovery sets them again.
//! - **copy's threads have a low priority** (a nice value of 10): a copy keeps all cores busy for seconds, and a
//!   `prepare` of a millisecond should not wait for it.
//! - **copy keeps a manifest of inode numbers and ctimes** rather than trusting ctimes alone: if two directories are
//!   exchanged, the files in them keep their old ctimes. A copy without some of the parent's device nodes has no
//!   manifest, because it differs from its parent where no call changed it.
//! - **copy keeps the usage of a snapshot for a minute**: counting takes a walk of the whole copy, and some daemons ask
//!   for every snapshot all the time. A commit counts again.
//! - **btrfs compares an active snapshot for one caller at a time**, by a read-only copy of it. The copy is removed
//!   before the first change is handed out, so no caller waits for another caller's slow reader.
//! - **A commit walks once**: the walk that counts the usage also lists the inodes to sync, up to a limit.
//! - **A directory that is moved on overlay over xfs can get a new mtime**: if a lower layer has the new name,
//!   overlayfs exchanges the directory with a whiteout, and xfs updates the mtime of both. That mtime is the file
//!   system's result, and part of the layer. The random scripts set such a time again.
//! - **btrfs destroys a large subvolume in a directory of its own**: the kernel locks the parent directory while it
//!   evicts cached inodes, half a second for 60,000 files. The rename into that directory costs the next fsync a commit
//!   of the file system, so a small subvolume is destroyed in place.
//! - **Device numbers**: xfs keeps 9 bits of a major number and 18 of a minor one. `mknod` of a larger number fails
//!   there, and the error names the path.
//!
//! ## containerd
//!
//! - **The protocols are written anew** (`src/containerd/proto/*.proto` have containerd's names and numbers, but only
//!   the calls that strata uses), and the generated Rust is committed. So a build of strata needs no compiler of
//!   protocol buffers.
//! - **A snapshot is found by the directories that its mounts show.** The differ gets mounts and no key, and clients
//!   spell mounts in their own ways (BuildKit replaces `redirect_dir` and adds options). The directory of the topmost
//!   layer leads to an id, the id to its mounts, and their directories must be the given ones, in order. No other
//!   option changes which layers a mount shows. No path of a request is opened.
//! - **`Unimplemented` is for mounts of other snapshotters only.** containerd asks its next differ only after that
//!   code. A request for a snapshot of the store that strata cannot serve, for example with a layer of an unknown kind,
//!   fails with `FailedPrecondition`: another differ would write by other rules, and the result would be wrong without
//!   an error. The price: a daemon without `--containerd` refuses layers that containerd's differ would apply. It also
//!   refuses an encrypted layer, which only containerd's own differ can read.
//! - **Ids of a user namespace are translated by mounts, and layers have the container's ids.** A snapshot is made for
//!   a user namespace by containerd's labels; labels can change, so the map is in a column. A bind mount translates
//!   both ways. An upper cannot be translated (the kernel mounts such an overlay read-only), so an upper has the
//!   machine's ids. Readers see it as the topmost lower layer, translated in the other direction, and a commit applies
//!   its changes to a fresh id. A change of owners in place would be quicker, but could not be continued after a crash
//!   if the two ranges of ids overlap. The fresh id costs a copy of the container's changes, but only for a direct
//!   commit: clients that make images ask for the layer instead. strata itself refuses to write into such a snapshot.
//! - **The capability `remap-ids` is announced, `only-remap-ids` is not**: with the second, containerd refuses pods if
//!   the kernel cannot translate ids. With the first, a user can remove it from the settings, and containerd then
//!   copies files to change their owners.
//! - **A layer that strata did not write is marked, not verified.** A commit under a ChainID to which no layer of that
//!   digest was applied gets the label `strata/unverified`; `serve --strict` refuses it. A digest computed from the
//!   tree would prove nothing, because strata's encoding of the layer differs from the image's. To apply the layer once
//!   more, strata would need its blob, which a commit does not name. The cure is to pull the image again.
//! - **If a call has no namespace, the snapshot's key has it**: containerd's keys are `namespace/number/name`. Debian's
//!   1.7.24 passes neither the namespace nor the lease of a call on to a differ (containerd issue 12328), so a layer
//!   for `nerdctl commit` could be collected before the image names it. The differ therefore adds the blob to a lease
//!   of its own for ten minutes, before it commits the blob. So the blob is held from its first moment, even if it
//!   existed before, and a write that takes longer than the lease does not fail.
//! - **A view stands for its parent** when layers are made, because containerd reads committed snapshots through views.
//! - **The caller's deadline is kept in front of all services**, a millisecond early: tonic keeps it too, but returns
//!   `Cancelled` instead of gRPC's `DeadlineExceeded`. The same code logs requests that reach no service.
//! - **One thread moves messages, other threads run the calls.** Two threads for messages made no call faster and took
//!   more processor time, because they wake each other. Calls on the message threads themselves (`block_in_place`) save
//!   a fifth of the time of a read, and nothing for calls that change the store.
//! - **A call that has begun runs to its end**, and a call that still waits for a thread is dropped if its client
//!   leaves. The exception is the unpacking of a layer, which stops if its client leaves, because its snapshot would be
//!   thrown away in any case.
//! - **The thread that frees space has a low priority** (a nice value of 10), because it runs beside the calls that
//!   follow a removal. It waits a moment before it begins, because an image is removed layer by layer.
//! - **The differ syncs the layers that it applies**: containerd commits a snapshot inside a write transaction of its
//!   own database, which should not wait for a disk.
//! - **The mounts of a request may have 1 MiB**: every path in them is looked up, to find mounts of the store.
//! - **Filters and labels have bounds**, for every caller: 64 KiB of filters and 16 patterns a call, 1 KiB of text and
//!   1 MiB compiled a pattern; 4 KiB a label, as containerd has it, and 1 MiB of labels a snapshot. A thousand patterns
//!   took gigabytes, and labels longer than a message made `List` fail for good. A snapshot of an earlier release may
//!   have more labels: the daemon sends the first 1 MiB of them.
//! - **The owner `local` cannot be served.** containerd removes snapshots that it does not know, and so would remove
//!   those of the command line.
//! - **A daemon finds other daemons twice**: by a lock in the store, which two sockets cannot share, and by a lock on
//!   the socket's directory, which two stores cannot share.
//! - **Exports are always durable**, also those of a store with `durability=none`: the files are outside the store, and
//!   no later call syncs them. A partial file is locked and named at random, so that the next export into the same
//!   directory can tell the leftover of a killed process from a file that is being written.
//! - **A special file is written to if its directory is trusted**: only the caller and root can have put it there. A
//!   path below `/dev/fd` is the caller's own descriptor, and a pipe that belongs to the caller was made on purpose.
//!   Block devices are refused.
//! - **A leftover directory is removed only where other users cannot rename it**: elsewhere another user could rename
//!   any directory of the caller to the name of a leftover, and strata would remove its content.
//! - **A store root has one owner, the caller**: another owner, or a user who may write to the root, could exchange the
//!   database and the layers. The check is one `stat` when the store is opened.
//!
//! ## Building and running
//!
//! - **A step makes a layer if `changes` finds a change.** Only the difference after the command counts, not the way to
//!   it, so the same step makes a layer on every strategy or on none. Only running the command shows that it changes
//!   nothing (other tools make empty layers instead), so the cache records that.
//! - **A bind is a descriptor**: a source of `RUN --mount=type=bind` is opened once, beneath the context and through no
//!   link; a volume of `run` is opened once too. The detached mount of the descriptor is attached in the workplace,
//!   which no other user reaches. The runtime would resolve a path again, and the owner of the path could have
//!   exchanged it meanwhile.
//! - **The cache is a table**, from the digest of everything that determines a step to the snapshot after it. An entry
//!   is removed with its snapshot, and every process sees both. Files of a context count by their content. A stage or
//!   an image that files are copied from counts by its ChainID, which identifies its content, so a hit needs no mount.
//!   The price: two results of a stage that differ only in times count as different. `SOURCE_DATE_EPOCH` avoids that.
//! - **The expansion of a Dockerfile has a budget** that all stages share, in addition to the bound of each value: a
//!   value can double with each line, and the environment is copied for each command.
//! - **Patterns of `.dockerignore` are compiled in sets of 1000**, and the sets are tried from the last to the first,
//!   because the last matching pattern decides. One set of all patterns exceeds the limit of regular expressions; one
//!   matcher for each pattern takes 10,000 searches a path.
//! - **Patterns in `${...}` have a budget of the bytes that they read**: `${x##*}` gives an empty text but reads the
//!   whole value, and a line has room for 100,000 of them.
//! - **Of a context only regular files are opened.** A FIFO or a device is copied as a node, as BuildKit does; a socket
//!   is left out. A device in a layer gives no access, because every mount of a container but `/dev` is `nodev`.
//! - **strata reads Dockerfiles with a parser of its own.** The existing crates shift positions by a byte order mark,
//!   refuse `ENTRYPOINT []`, and support neither triggers with here-documents nor empty here-documents. BuildKit's
//!   grammar is small: lines are joined first, and each byte of a joined line has its position in the source.
//! - **A part of another stage is bound from a snapshot of it**, even if it is only read: there is then only one way to
//!   mount a chain, and with `rw` the files that a command writes are removed with the snapshot.
//! - **A secret is a file in the tmpfs of the container's workplace**, and the socket of an SSH agent is one of
//!   strata's, which passes connections on. So neither is ever below the store, and nothing of them is left after a
//!   kill.
//! - **The time of a step is the time when its layer was made**, by this build or an earlier one. A step without a
//!   layer has the time of the step before it. So a build that finds every step in the cache gives the same image, with
//!   the same ID. (BuildKit does the same.) The time is that of the snapshot: the cache has no times.
//! - **A container cannot outlive strata.** The runtime is the first process of a process namespace and is killed with
//!   the thread that started it, so a kill of strata ends everything, and no process writes to a snapshot whose claim
//!   recovery has ended. No process watches over a container, and no file describes one.
//! - **A container's mounts are in a fresh mount namespace** below a tmpfs, with the bundle and the runtime's state: a
//!   crash leaves nothing to clear up, and two containers of one process do not see each other. Other processes do not
//!   see these mounts in their mount tables, so the snapshot is claimed while it is written to, and no call commits or
//!   removes it.
//! - **Mount points are made by strata, not by the runtime**, because the runtime would not report them. If the
//!   snapshot is kept, they are first noted, durably, in a label of the snapshot: after a crash, recovery removes those
//!   that are still unchanged. A call that reads a claimed snapshot also runs a recovery first.
//! - **A container of a build, and one of `run --rm`, does not wait for the disk**: its overlay is volatile, so an
//!   `fsync` in it and its unmount cost nothing. One sync before the image gets its name brings all layers of a build
//!   to disk. After a crash the snapshot of the container is discarded in any case.
//! - **Control groups are made by strata**, beside its own group, and the runtime is put into them before it runs. So
//!   the limits hold for every runtime, and strata can remove the groups that a killed runtime leaves. The runtime sees
//!   only version 2, read-only, because some runtimes refuse a machine with both versions. A machine without a usable
//!   controller has no limit, which `-v` reports.
//! - **A private network goes through pasta**, which needs no bridge, no packet filter and no setting of the machine.
//!   strata starts it, not the runtime: crun, as the first process of its namespace, would wait for every child. pasta
//!   ends with the thread that started it. Without pasta, the container has no network, and a message says so.
//! - **No device of the machine reaches a container**: every mount but `/dev`, which has only the standard nodes, is
//!   `nodev`, and no container gets `MKNOD`. So the promise needs no control group. crun drops `nodev` when it binds
//!   the root; a hook of the container sets it again before the command runs, with every runtime.
//! - **The filter of system calls is the stricter of Docker's and podman's**: commands of a build need neither nested
//!   namespaces nor keyrings. `RUN --network=host` needs the caller's `--network host`, because a Dockerfile is
//!   untrusted.
//! - **Files that strata makes itself have mtime 0**: the directories of `WORKDIR`, the missing parents of a `COPY`
//!   target, the file of a here-document. With the time of the build, each build and each strategy would give another
//!   layer.
//! - **Times are clamped in the tree, not in the stream**: so a layer that is written from the tree later has the
//!   recorded digest.
//! - **An unneeded stage is not evaluated**: its base is not looked up, and its mistakes are no errors, as with
//!   BuildKit. Most stages that a stage needs are named in the text. A name with a variable, or in a trigger of an
//!   image, is found only during the evaluation, which then begins anew with that stage.
//! - **Docker judges Dockerfiles**: the suite builds fixed and random ones with strata and with Docker. Each allowed
//!   difference is in a list, with its reason and the exact form of the difference, so that it hides no other.
//! - **A build writes only the documents of its image**, and no blobs. The manifest names each layer by its DiffID.
//! - **Here-documents are taken off when the lines of an instruction are joined**, before the instruction is parsed, so
//!   that a line may have other words beside them. Positions stay right, because each piece of a joined line has its
//!   offset in the source.
//!
//! ## Conformance
//!
//! - **The suite is part of the program**: a strategy has to be checked on machines without build tools. So the suite
//!   has a generator and a shrinker of its own, and `proptest` is used only by the tests.
//! - **A script is shrunk as operations, not as the numbers that it was made of**: the printed script is the one that
//!   is tried again, and a user can edit it. An operation that the model does not allow is skipped, so any part of a
//!   script is a valid script.
//! - **Known deviations follow from the mount**, not from the name of a strategy: they come from the kernel, and every
//!   snapshotter that hands out an overlay has them. Each one names the message of its failure, so that it hides no
//!   other failure.
//! - **Every case about content ends with a commit and a view**: the next layer must show what a program saw.
//! - **The suite sees system calls that are not safe**, as the strategies do: a mapped file is read through
//!   `/proc/self/mem`, where the kernel returns an error if another process has truncated the file.
//! - **The time of a fresh root directory is judged only on strata's stores**: the contract does not define it. For
//!   other stores the suite sets that time, and can then judge everything else about layers.
