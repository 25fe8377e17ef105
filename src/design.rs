//! The invariants, the format on disk, and the decisions with their reasons. For readers of the code: nothing is
//! compiled.
//!
//! # Invariants
//!
//! 1. What was acknowledged survives the death of any process, and with `durability = commit` a power cut. What was not
//!    is as if it had not been asked for.
//! 2. What the database calls durable is complete on disk. The disk may hold more than the database names, never less.
//! 3. An id is given once. What is at `s/<id>` of an id without a row is debris, whoever looks in a write transaction
//!    that began after it was seen, and may be removed.
//! 4. A committed snapshot never changes, and neither does its parent. Its chain is there as long as it is.
//! 5. No file-system work inside a transaction but a few system calls that wait for nothing, so nobody waits for
//!    another's copy, removal or disk.
//! 6. A row that is not `ready`, and one that is held, names a worker; a worker is alive as long as its lock is.
//! 7. The same edits give the same layer, byte for byte, on every strategy. A fast path only narrows what is compared.
//! 8. Nothing inside a snapshot is followed: its content is a stranger's.
//!
//! # On disk
//!
//! ```text
//! <root>/               0700
//!   strata.db           SQLite in WAL mode; application_id "stra", user_version the format
//!   s/<id>/             a snapshot: overlay fs/ and work/, copy fs/ and manifest, btrfs the subvolume itself
//!   s/userxattr         overlay: layers are spelled with user.overlay.*, for the store was made in a user namespace
//!   s/<id>.new          one that is not finished yet; s/<id>.now (btrfs): a copy of an active one, to be looked at
//!   streams/<id>.zst    the tar-split data of the layer that s/<id> was made from
//!   run/<inode>-<time>  a worker: a process that changes the store, with its lock on it
//!   run/container/      each process mounts the workplace of its containers here, in a mount namespace of its own
//!   run/drain, recover  the locks of the one who frees space, and of the one who recovers
//!   run/daemon-<digest> the lock of the daemon of an owner, by a digest of the owner's name; it says who holds it
//!   cache/<digest>/     what RUN --mount=type=cache keeps; whoever uses it has a shared lock on it
//! ```
//!
//! ## The database, format 4
//!
//! Times are nanoseconds since 1970.
//!
//! | table | column | meaning |
//! |---|---|---|
//! | `snapshot` | `row` | its number in the database; given again when it is gone |
//! | | `id` | its directory; never given again |
//! | | `owner`, `name` | together unique; the key or name |
//! | | `kind` | 1 view, 2 active, 3 committed |
//! | | `state` | 0 ready; 1 creating: holds its key, not visible; 2 claimed: visible, a commit or an apply works on it; 3 reserved: holds the name that a commit to a fresh id will give |
//! | | `parent` | the row of its parent |
//! | | `worker` | who has it in work; on a ready row: who holds it for an image that has no name yet |
//! | | `created`, `updated` | when it was made or committed; when its labels changed |
//! | | `size_bytes`, `inodes` | its usage, as of the commit |
//! | | `durable` | 0 while a power cut may take it |
//! | | `voucher` | who may say that it is durable: NULL whoever commits it; a worker and the id in which that worker wrote it; '' nobody |
//! | | `origin` | 1 an image needed it: `gc` may take it; 0 it was named by somebody |
//! | | `id_map` | the ids of the user namespace that an active snapshot or a view was made for, `UIDS/GIDS`; NULL for none |
//! | | `diff_id` | the digest of the layer it was made from |
//! | `label` | `snapshot`, `name`, `value` | the labels of a snapshot |
//! | `image` | `owner`, `name` | together unique |
//! | | `config`, `manifest` | digests of documents |
//! | | `top` | the row of its topmost layer |
//! | | `created` | when the store got it |
//! | `document` | `digest`, `bytes` | configs and manifests, byte for byte |
//! | `step` | `owner`, `digest` | together unique; the digest of what a step of a build depends on |
//! | | `top` | the row of the snapshot after it |
//! | | `layer_bytes` | the length of the layer that it made; NULL if it changed nothing |
//! | `trash` | `id` | what is to be freed |
//! | `setting` | `name`, `value` | `backend`, `durability`, `next_id`, `boot_id`; `lost_log` while part of the log may be lost |
//!
//! ## Tar-split data, format 1
//!
//! With it and the snapshot's tree the layer can be written again, byte for byte. The format is in
//! `changeset/tar_split.rs`; its first line names the version. It is made while the layer is applied, belongs to the
//! id, is on disk before a row with a DiffID says so, and goes with the id: by a removal, or as debris that no row
//! names.
//!
//! # Decisions
//!
//! ## The store
//!
//! - **Documents lie in the database, not in `blobs/`.** An image, its documents and the snapshot it stands on appear
//!   and go in one transaction; files beside the database would need an order of writing and a collector that does not
//!   race with an import. They are small: a few kilobytes each.
//! - **Rows are reserved relaxed and published durably.** Losing a reservation to a power cut loses nothing that was
//!   acknowledged, and a wait for the disk is most of the price of a transaction. A durable transaction brings
//!   all earlier ones to disk with it, for it is one log.
//! - **What is made by a few system calls is made in the transaction that publishes it** (overlay's empty upper
//!   directory, a view). A reservation of its own cost more than the directories that it stood for. Nobody sees the
//!   directory without its row: whoever looks for debris does so in a write transaction, which waits for this one. If
//!   it fails, the directory goes in another such transaction, for the id is free again.
//! - **In place or to a fresh id.** overlay and copy commit in place: nothing need move, and the path of a layer stays
//!   the same. btrfs commits to a fresh id, because the read-only flag on the active subvolume would neither stop those
//!   who have a file open nor flush anything.
//! - **A commit in place reserves no name**, only its snapshot: of two that want one name, a commit or a prepare, the
//!   first to publish has it, and the other is told so late, as by containerd's own. A row for the name, made and
//!   deleted again, was most of what such a commit did in the database. To a fresh id there must be a row, which says
//!   whose that is.
//! - **The order of recovery**: list the disk; in one transaction end the work of the dead, after a boot drop what was
//!   not durable with all that stands on it, put what no row names into the trash; make missing directories again;
//!   write the boot id; remove the lock files of the dead. Each step may be repeated, and the last two are what keeps
//!   the next process from repeating them, so a crash or failure anywhere is gone on with. Recoveries take turns.
//! - **The disk is listed before the database is read.** A row comes before its directory or in the same transaction;
//!   so a directory that was there and has no row afterwards has no living maker. The other way round it may be new.
//! - **Dead means that its lock can be taken, or that its file is gone.** A process that ends in good order may leave
//!   rows: the layers of an import that failed, or a call whose failure a full disk kept from being written.
//!   The names of lock files hold the time, for such rows outlive the file and inode numbers are given again at once.
//! - **A failed call frees its space before it tells the database**, which on a full disk may need that space. What
//!   cannot be told then is told before the process's next change.
//! - **`sync` vouches for (id, kind)**, not for rows: while it waits for the disk a row number may come to mean another
//!   snapshot, and an active one of the list may be written to and committed in place under the same id.
//! - **`apply` claims its snapshot as a commit does.** Its writer is a detached mount, which no table shows: without
//!   the claim a commit beside it would publish a layer that goes on changing.
//! - **A view of a committed snapshot has no directory.** It cannot be seen to be mounted; its parent can, so what
//!   matters (that the layers stay) is checked when the parent is removed.
//! - **Removal is a row in the trash.** The space is freed by one drainer at a time; a second one leaves. Whoever has
//!   no more time stops inside a snapshot: what is left of it is in the trash as before, and as after a crash. A copy
//!   that finds the disk full frees what waits, and is tried once more; the lock files for that are there since the
//!   store was made, for on xfs a full disk may have no room for a new file.
//! - **A removal on a full disk uses a reserve**, files of allocated blocks in `reserve/` (`store/reserve.rs`): the
//!   database's log, its index in shared memory and inodes need room before anything is free. A removal is tried
//!   without it first, then with one file less each time; eight files, so that a rival who takes the space of the
//!   first does not take it all. The reserve is at most a 64th of what the file system has left (16 MiB at most), and
//!   is made again only while there is that much: the last room of a disk is its user's.
//! - **The database's log is allocated when a store is made** (4.5 MiB, at most a 16th of what is left), and database,
//!   log and index are written in place on btrfs too: a removal then mostly needs no space at all, and no rival can
//!   take from it what it has.
//! - **A removal has no lock file.** It leaves no row in work, and on a file system without inodes none can be made.
//! - **On a nearly full btrfs a removal has the kernel free destroyed subvolumes at once** (`BTRFS_IOC_START_SYNC`,
//!   which wakes the thread that frees them): by itself the kernel begins with that up to 30 s later, and the next
//!   call would find no space.
//! - **The log is waited for by `fdatasync`** (`.cargo/config.toml`: SQLite must be told that there is one). Once it
//!   has its full length it is written in place, and the file system has no journal to write for it. What that had
//!   brought along before, the directories of an empty snapshot, recovery makes again.
//! - **A prepare and a commit keep clear of statements for which SQLite makes tables in memory**: recursive queries,
//!   `RETURNING`, lists of values in a `CHECK`. Those took most of the time of a transaction, in page faults. Nor is
//!   SQLite told how to wait for the disk where it was told so last.
//! - **The files of a layer are all begun to be written before the first is waited for**: on ext4 and xfs one journal
//!   has them all then. That is a call for each of at most 256 files; for more it is a `syncfs`.
//! - **The table of mounts is read when it has changed**: the kernel writes it anew for whoever reads it, a line for
//!   each mount of the machine, which was a third of a commit on a machine with twenty.
//! - **The log is not written back on close**: the last of many short processes would wait for the disk twice more. It
//!   is written back whenever it has grown to 1,000 pages.
//!
//! - **A transaction that failed is written over.** Where only the wait for the disk fails, SQLite says that it failed,
//!   but all of it is in the log: the next process, which reads the log anew, would find the snapshot of a call that
//!   failed, and not its directory, which was taken away. So one that skips an id is written in its place, and needs no
//!   space.
//! - **`strata.db-shm` is made before SQLite makes it**, with the flag C (write in place). On a full btrfs the kernel
//!   otherwise kills a process that writes to that mapping: a page which is written anew needs space.
//!
//! - **A failed sync is noted in the rows that it may be about**, before it is answered: the kernel reports a lost
//!   write once to each descriptor that was open then, and a later sync of the same pages succeeds (`store/vouch.rs`).
//!   Only the worker that wrote a row, or a handle that was open before, calls the row durable. A layer that is
//!   nobody's is dropped and written again; an active snapshot is not committed before the next boot. The note itself
//!   waits for no disk: it is read from memory, as the lost pages are, and a boot drops what is not durable in any
//!   case.
//! - **A log of which a sync failed is begun anew**, by the next durable transaction of whichever process, before
//!   that is called durable: the frames of earlier relaxed transactions are in the log before it, and one that is lost
//!   ends the log. The same blocks do not do: ext4 shows zeros there after a mount if their first write failed.
//! - **A log that is found in a store which is not made yet is begun anew**: the process that left the log may have
//!   been told that a sync of it failed, and no table has a place for that note yet. The switch to the log is asked for
//!   a second row, because SQLite answers before the switch is on disk, and reports a failure with the next row.
//! - **A worker that dies takes its layers along** where they are not on disk: an error may have been reported to it.
//!   An import or a build that fails or is called off brings its finished layers to disk first, for the next one to
//!   find.
//! - **An image waits for layers of another process**, up to two minutes, instead of calling them durable. A commit or
//!   a prepare on such a layer is refused (`Unavailable`).
//! - **btrfs is asked after a seal**: a snapshot is made also where content of the active one could not be written, and
//!   only `syncfs` tells.
//! - **A disk of which every flush failed forgets its cache in the tests** (`tests/crash/failing.rs`): the replay drops
//!   for good what no earlier flush brought to disk. A disk that kept it would hide a store which vouches too early.
//! - **The matrix of failed syncs finds the waits for the disk by a trace** (`tests/crash/syncs.rs`): each `fsync`,
//!   `fdatasync`, `syncfs`, `sync_file_range` and each request to btrfs that waits. A list by hand would miss the next
//!   one. A write that waits by itself (`O_SYNC`) fails the trace.
//! - **`doctor` knows whether SQLite waits by `fdatasync` from the environment of the build**: SQLite does not tell it
//!   (it is none of its compile options), and a crate cannot set the flags of another crate's build.
//! - **What cannot be told**: a write that failed before a commit began and of which somebody else was told already (a
//!   container by its own `fsync`, another program by `syncfs`), and a commit that is killed between the kernel's
//!   report and the note.
//! - **What can be committed can be read**: overlay takes 500 layers, an active snapshot's own included, although the
//!   kernel would mount that one over 500 lowers.
//!
//! - **A check reads the disk before and after the database**, and holds nobody up. What is missing or left over was so
//!   on both sides of the rows, hence is neither a snapshot that is being made nor one that is being freed.
//! - **A repair removes only what an import brings again**: a damaged layer that came with an image goes with the
//!   layers on it and their images, unless anything that somebody made stands on one of them. What is damaged besides
//!   is named, and left to its owner.
//! - **A deep check reads whole trees**, also where a strategy knows what can differ: it is to find what nobody wrote.
//!   A digest that a check recorded is of our own spelling, so another one means that something changed. A layer which
//!   came with an image is verified in the spelling that was recorded; that proves the contents of its files, for all
//!   else stands in the tar-split data. So it is applied once more to its parent, and the trees are compared: what
//!   only one of the two uppers has, or one of them has otherwise, is found by reading both, however many layers lie
//!   below. Where there is no space for that, the layer is said to be unverified, not sound.
//!
//! ## Layers
//!
//! - **A tree without a parent is compared with an implied root**: an empty directory, 0755 0:0, mtime 0. So an empty
//!   snapshot that nobody touched changed nothing and makes an empty layer, on every strategy; a root that was
//!   changed is an entry.
//! - **A name of 252 to 255 bytes that vanishes** has no whiteout: `.wh.` and the name are longer than a name may be.
//!   Its directory becomes opaque, and what is left in it is put again.
//! - **Extended attributes that are none of a layer's business** are left out by one list: the state of overlayfs
//!   (`trusted.overlay.*`, `user.overlay.*`), the second names by which xfs lists access control lists
//!   (`trusted.SGI_ACL_*`), properties of btrfs (`btrfs.*`), `security.selinux`, `system.nfs4_acl`.
//!
//! - **A recorded layer has a record of where its content is, not a copy.** What an entry of the same layer takes away
//!   again (a path that occurs twice) is saved behind, at that moment; to write the layer that data is read once
//!   for such contents and a second time for the archive. A layer that does not come out with the DiffID that it had is
//!   an error, whatever the reason.
//! - **`apply` keeps no tar-split data.** Only an importer knows that nothing else was written into the snapshot;
//!   mounts in other namespaces cannot be seen. containerd's differ is asked to apply a layer, and another call commits
//!   it: there the tar-split data counts if the name of the commit is the ChainID that the layer has on its parent, for
//!   so its client says that the snapshot is this layer and nothing else. If it is not, a deep check finds what is
//!   damaged indeed.
//! - **A gzip blob is a series of members**, one for each mebibyte, compressed by libdeflate on every core. One member
//!   of joined blocks was tried with zlib-rs: on binaries it came out 2 % longer than `gzip -6` at the speed that is
//!   wanted, and 1 % at half of it; with libdeflate, whose blocks cannot be joined, 0.3 to 1.6 % shorter at 2.5 times
//!   the speed of zlib. RFC 1952 makes a series of members one file, and lazily pulled layers (eStargz) have come so
//!   for years.
//! - **What a strategy knows names paths, and nothing else.** The comparison asks for the names of a directory in one
//!   place, and looks at those that were named; what is a change it decides as it does without a hint. What no hint
//!   names is not looked at: a device 0:0 that was in the parent already is refused only by a walk of both trees. It
//!   is in no layer that is written of the difference.
//! - **Hard links reach out of what is looked at**: a directory that moved brings names of inodes of which others
//!   stayed where they were. Those are asked for where the hint came from (btrfs keeps them with the inode, the walk of
//!   a copy notes them); overlayfs has all names of an inode in one upper.
//! - **A hint is valid or is none.** The strategy says whether what it knows is about this parent and this boot, and
//!   answers with it or with [`crate::changeset::Candidates::All`]; nothing is found out half-way through a comparison.
//! - **A view changed nothing against its parent**, and neither of them is read to say so.
//! - **An import is a pipeline of four threads**: read and digest the blob, decompress, digest the plain stream, and
//!   the caller's, which parses and writes. On two cores the first three take about as long together as the last; more
//!   would need parallel inflation, of which two threads are no faster than zlib-rs on one. Layers are still applied in
//!   order, because one can need what lies below it.
//! - **A damaged blob is read to its end**, so that the error can say that it is damaged; one beyond a limit is not,
//!   nor is it decompressed further when its caller has failed.
//! - **What is remembered of a layer is bounded by the lower tree, not by the layer**: in a directory that holds
//!   nothing of the lower tree every entry is the layer's. Directories beyond 8 MiB of them get their attributes before
//!   the end; later entries then find them as they find those of the lower tree, and give them back their times.
//! - **Writeback starts with a `syncfs` beside the work**, every 128 MiB: `sync_file_range` would take a call for every
//!   file, and means nothing on btrfs. It makes nothing durable; the sync at the end does, by another descriptor, which
//!   is told of every error that the first one met.
//! - **Removals apply first, wherever they stand, to the targets of hard links too.** The specification says so of
//!   whiteouts alone. A link that was made to a lower file is taken back when the file's whiteout follows, and waits
//!   for an entry of the layer by that name; otherwise the same entries in another order would be another tree.
//! - **What two readers of tar would read as two things is refused**, not read in one way: two names for an entry, a
//!   NUL inside a GNU long name, a header behind a single zero block. A scanner and a runtime must see one image.
//! - **Holes are zeros in a layer of our own writing.** A canonical layer depends on content alone, so the same edits
//!   have one DiffID on every file system; where a file system keeps its holes does not count. Runs of zeros could be
//!   holes by a rule about content, but sparse entries are what readers of tar disagree about most, and some unpack
//!   them wrong without an error. The digest has to pass over the zeros in any case: 16 GiB of holes took 20 s of a
//!   processor in a debug build. So the layer is dense, and its length is bounded instead: beyond 1 TiB of files
//!   (`EmitOptions::content_bytes_max`, the most that an import takes) it is refused before the file is read. A commit
//!   writes no layer and has no such bound, and an imported sparse layer leaves as it came.
//! - **Work has no limit of its own**: it is in proportion to the layer by construction (`changeset::apply`), which is
//!   tested by counting. A limit would have to guess how large a directory may be.
//! - **The command line sets three limits** (entries, bytes, ratio): those that a layer of good faith can reach. Nobody
//!   needs a longer PAX header or a wider zstd window than the constants allow.
//!
//! ## Rules without examples
//!
//! `conformance::layers` has an example for each rule of the checklist of layer semantics, except for these.
//!
//! - **32** (a link where the file system has no room for more names): the limit is the file system's, 65,000 on ext4
//!   and none on xfs, so there is no one answer. Apply reports it and never copies instead; its own tests reach the
//!   limit.
//! - **56** (a file that vanishes or changes while a layer is written): no sequence of calls can show it. A committed
//!   snapshot does not change, and what is seen to change in an active one is an error (`changeset::diff`'s tests).
//! - **57** (a file that grows while it is written): the same; the encoder takes exactly the size that its header says,
//!   and anything else is an error.
//! - **58** (`/etc/hosts`, `/dev` and other places where a runtime mounts): a snapshot knows no runtime. Who runs
//!   containers mounts over what is there and takes the mounts away again.
//!
//! ## Images
//!
//! - **An image leaves with the manifest that it came with** if its blobs come out as they were; compressed anew they
//!   have other digests, and so has the manifest then. Config, DiffIDs and image ID are the same in any case. What
//!   strata does not know in a manifest is kept, but for annotations that are about the bytes of one blob.
//! - **A config is read in two ways** ([`crate::oci::config`]): an import needs the layers and the history and refuses
//!   no image for another field, and a build needs every field and keeps the unknown ones. Layers, history, media types
//!   and `null` are the same type in both.
//! - **A source of images is one trait** for the files of a layout and for a registry: which documents and layers make
//!   an image, and how they come into the store, does not depend on it.
//! - **The whole name of an image is its `ref.name`**, and containerd's name as well: that is what its client takes. In
//!   a docker archive it is a tag if docker could have it, with `:latest` where there is none; else the archive has no
//!   tag.
//! - **An export appears by one rename.** A directory must be new or empty: what is in it would not be this image.
//! - **`rmi` refuses for what was built on an image**, containers and images, and not for its second name. Whoever
//!   prepares a container at that very moment keeps the layers; only the name is gone.
//! - **Registries are asked through `ureq`, not through `oci-client`**: a blob goes from the socket straight into
//!   unpacking, which is threads that read; an asynchronous client would need a runtime, a bridge from its streams to
//!   readers, and its own opinion of what a manifest is. `ureq` blocks, is small, brings rustls and proxies, and leaves
//!   headers to the caller, which ranges, `Retry-After` and challenges need. The requests of the distribution
//!   specification are few.
//! - **Four layers are downloaded at once, each into a queue of 8 MiB**, and unpacked in order: 32 MiB for any image.
//!   A layer that waits holds its connection; one that breaks meanwhile is resumed by range.
//! - **Threads of downloads are not waited for**: a silent connection would hold up a command that is to stop. They see
//!   that nobody reads their queue any more, and end.
//! - **Plain HTTP is tried on loopback only**, and only where HTTPS gets no answer at all: a wrong certificate or a
//!   refusal is not evaded.
//! - **A registry's credentials are not shown to its mirrors**, and follow no redirection to another host.
//!
//! - **All documents that are read to find one image have 64 MiB together**, beside the 4 MiB of each. Where an index
//!   does not say what its images are for, each of them is looked at, and one document can have 40,000 names. The
//!   layers of an image are counted before one of them is read for its digest.
//!
//! ## Strategies
//!
//! - **A layer without changes is a copy on the copy strategy.** A row without a directory of its own, an alias of its
//!   parent, would save that. But an id is what the trash, the vouchers, the tar-split data, the hints of a comparison,
//!   recovery and the check go by, and each relies on one row for an id: the format of the store and every one of these
//!   would change. Hard links are no way, for a writer of one layer would change the other. Where the file system can,
//!   `--clone` shares the blocks already; a build makes no layer of a step that changes nothing; an imported image has
//!   at most 128 layers.
//! - **A strategy is a folder and an entry of the table in [`crate::backends`].** The entry says what a program has
//!   to know besides the [`crate::backend::Backend`]: name, options, the variants that are compared one by one and
//!   the file systems that they live on. Command line, `compare` and `conformance` read the table; a program of
//!   another crate adds an entry and has all of them.
//! - **A setting is one type**, [`crate::backends::Setting`]: a strategy, values of its options, and a file system.
//!   `compare`, `conformance`, suites and benchmarks take settings from the table; what people use where is said there
//!   once.
//! - **A hint is a trait, not a list of kinds**: a comparison asks it for names and knows no strategy.
//! - **btrfs counts usage by generation.** A simple quota charges an extent to the subvolume that wrote it: the active
//!   one, which is gone after the commit. Exact quota groups cost every writer on the file system.
//! - **btrfs makes an empty snapshot under its last name**, not under another with a rename: after the rename of a
//!   subvolume every fsync commits the whole file system until the next commit. What a power cut can take then, the
//!   attributes of the empty directory, is given again by recovery.
//! - **copy's workers stand back** (a nice value of 10): a copy keeps all cores busy for seconds, and a `prepare` that
//!   has a millisecond to do should not wait for it.
//! - **copy keeps a manifest of inode numbers and ctimes** rather than trusting ctimes alone: two directories that
//!   change places leave old ctimes on all that is in them. A copy from which device nodes had to be left out has none:
//!   it differs from its parent where nothing was done to it.
//! - **copy keeps the usage of a snapshot for a minute**: it takes a walk of all of it, and there are daemons which ask
//!   for every snapshot all the time. A commit counts anew.
//! - **btrfs looks at an active snapshot one caller after the other**, at a read-only copy of it. The changes are found
//!   before the first of them is handed out, and the copy is gone by then: nobody waits for a slow reader.
//! - **A commit walks once**: the walk that counts also notes what to bring to disk, as long as that is little.
//! - **A directory that is moved on overlay over xfs can get a new mtime**: where a lower has the new name, overlayfs
//!   exchanges the directory with the whiteout, and xfs counts the exchange as a change of both. It is the file
//!   system's answer, and part of the layer; the random scripts set such a time again.
//! - **btrfs destroys a large subvolume in a directory of its own**: the kernel holds the directory around it for as
//!   long as it evicts what it has cached, half a second for 60,000 files. The rename costs the next fsync a commit of
//!   the file system, so that a small one is destroyed where it is.
//! - **Device numbers**: xfs keeps 9 bits of a major number and 18 of a minor one. `mknod` of another fails there, and
//!   the error names the path.
//!
//! ## containerd
//!
//! - **The protocols are written anew** (`src/containerd/proto/*.proto`: containerd's names and numbers, and only what
//!   is spoken), and the Rust made of them is committed. So nobody who builds strata needs a compiler of protocol
//!   buffers.
//! - **A snapshot is found by the directories that its mounts show.** The differ gets mounts and no key, and clients
//!   spell mounts in their own ways (BuildKit replaces `redirect_dir` and adds options). The directory of the topmost
//!   layer leads to an id, the id to its mounts, and their directories must be the given ones, in order. No option
//!   besides changes which layers are seen. Nothing is opened because a request names it.
//! - **`Unimplemented` is for mounts of other snapshotters only.** containerd asks its next differ after that code and
//!   no other. What lies in the store and cannot be served, a layer of an unknown kind included, is
//!   `FailedPrecondition`: another differ writes by rules of its own, and the result is wrong without an error. The
//!   price: a daemon without `--containerd` refuses layers that containerd's differ applied before, and so it is with
//!   an encrypted layer, which only containerd's own differ can read.
//! - **Ids of a user namespace are translated by mounts, and layers have the container's ids.** A snapshot is made for
//!   a user namespace by containerd's labels; labels can change, so the map is in a column. A bind mount translates
//!   both ways. An upper cannot be translated (the kernel mounts such an overlay read-only), so an upper has the
//!   machine's ids; readers see it below a translation in the other direction, as the topmost lower layer, and a commit
//!   applies its changes to a fresh id. Changing owners in place would be quicker and could not be taken up after a
//!   crash where the two ranges of ids overlap. The fresh id costs a copy of what the container changed, and only a
//!   direct commit pays: clients that make images ask for the layer. A write of strata's own into such a snapshot is
//!   refused.
//! - **`remap-ids` is claimed, `only-remap-ids` is not**: with the second, containerd refuses pods where a kernel
//!   cannot translate, and with the first a user can take it out of the settings and gets the copy.
//! - **A layer that strata did not write is marked, not verified.** A commit under a ChainID to which no layer of that
//!   digest was applied gets the label `strata/unverified`; `serve --strict` refuses it. Its own digest would prove
//!   nothing: the same tree has another digest in strata's spelling than in the image's. To apply the layer once more
//!   would need its blob, and a commit does not say which that is. The cure is to pull the image again.
//! - **Where a call says no namespace, the snapshot's key does.** Behind containerd it is `namespace/number/name`.
//!   Debian's 1.7.24 passes on to a differ neither the namespace nor the lease of a call (containerd issue 12328): a
//!   layer made for `nerdctl commit` could be collected before the image names it. The differ therefore puts the blob
//!   into a lease of its own for ten minutes, before it commits it: so it is held from the first moment, also where it
//!   was there already, and a write that takes longer than the lease lasts does not fail.
//! - **A view stands for its parent** when layers are made: containerd looks at a committed snapshot through a view of
//!   it.
//! - **The caller's deadline is kept in front of all services**, a millisecond early: tonic keeps it too, but answers
//!   `Cancelled`, where gRPC has `DeadlineExceeded`. There, too, is the line in the log for what no service gets to
//!   see.
//! - **One thread moves messages, others do the calls.** Two for messages made no call faster and took more processor
//!   time: they wake each other. Calls on the threads of messages themselves (`block_in_place`) save a fifth of a read
//!   and nothing of what changes something.
//! - **A call that was begun runs to its end**, and one that waits for a thread goes with its caller. The exception are
//!   layers: an unpack that nobody waits for any more stops, since its snapshot is thrown away in any case.
//! - **Who frees space stands back** (a nice value of 10), and waits a moment for more: it runs beside the calls that
//!   come after a removal, and an image goes layer by layer.
//! - **What is applied is brought to disk by the differ**: containerd commits inside a write transaction of its own
//!   database, in which nobody should wait for a disk.
//! - **The mounts of a request have 1 MiB**: every path in them is looked up, to tell the store's own from others.
//! - **Filters and labels have bounds**, for every caller: 64 KiB of filters and 16 patterns a call, 1 KiB of text and
//!   1 MiB compiled a pattern; 4 KiB a label, as containerd has it, and 1 MiB of labels a snapshot. A thousand patterns
//!   took gigabytes, and labels beyond a message made `List` fail for good. A store of an earlier release may hold
//!   more labels: the daemon sends the first 1 MiB of them.
//! - **The owner `local` cannot be served.** containerd removes what it does not know, and would take the command
//!   line's.
//! - **A daemon finds other daemons twice**: by a lock in the store, which two sockets cannot share, and by a lock on
//!   the socket's directory, which two stores cannot share.
//! - **Exports are always durable**, also those of a store with `durability=none`: the files are outside the store, and
//!   nobody else syncs them. A partial file is locked and named at random, so that the next export into the same
//!   directory can tell the leftover of a killed process from a file in the making.
//! - **A special file is written to if its directory is trusted**: only the caller and root can have put it there. A
//!   path below `/dev/fd` is the caller's own descriptor, and a pipe of the caller is one made on purpose. Block
//!   devices are refused.
//! - **A leftover directory is removed only where other users cannot rename it**: elsewhere another user can give the
//!   name of a leftover to any directory of the caller's, and have it emptied.
//! - **A store root has one owner, the caller**: another owner, or a user who may write to the root, could exchange the
//!   database and the layers. The check is one `stat` when the store is opened.
//!
//! ## Building and running
//!
//! - **A step is a layer if `changes` says something.** What a command did on the way does not count, only what is
//!   different afterwards, so the same step is a layer on every strategy or on none. That nothing changed cannot be
//!   known without running the command (which is why others make empty layers), so the cache remembers it.
//! - **A bind is a descriptor**: a source of `RUN --mount=type=bind` is opened once, beneath the context and through no
//!   link, a volume of `run` once, and the detached mount of it is attached in the workplace, which no other user
//!   reaches. A path given to the runtime would be resolved again, after its owner exchanged it.
//! - **The cache is a table**, from the digest of what decides a step to the snapshot after it: an entry goes with its
//!   snapshot, and both are seen by every process. Files of a context count by content; a stage or an image that files
//!   are copied from counts by its ChainID, which says what is in it, so that a hit mounts nothing. The price: a stage
//!   whose result differs only in times is another one. `SOURCE_DATE_EPOCH` avoids that.
//! - **What a Dockerfile expands to has a budget** that all stages share, beside the bound of each value: values double
//!   with each line, and the environment is copied for each command.
//! - **Patterns of `.dockerignore` are compiled in sets of 1000**, the last set first: the first that matches decides.
//!   One set of all goes beyond the limit of regular expressions; one matcher each is 10,000 searches a path.
//! - **Patterns in `${...}` have a budget of the bytes that they look at**: what `${x##*}` leaves is nothing, however
//!   long the value is, and a line has room for 100,000 of them.
//! - **Of a context only regular files are opened.** A FIFO or a device is copied as the node that it is, which is what
//!   BuildKit does; a socket is left out. A device in a layer opens nothing, for every mount of a container is `nodev`.
//! - **strata reads Dockerfiles with a parser of its own.** The crates for it shift positions by a byte order mark,
//!   refuse `ENTRYPOINT []`, and know neither triggers with here-documents nor empty ones. BuildKit's grammar is small:
//!   lines are joined first, and each byte of them knows its place in the source.
//! - **A part of another stage is bound from a snapshot of it**, also for reading only: the kernel then needs no second
//!   way to mount a chain, and with `rw` what a command writes goes away with the snapshot.
//! - **A secret is a file in the memory of the container's workplace**, and an agent's socket is one of strata's that
//!   passes connections on. So neither is ever below the store, and a kill leaves nothing of them.
//! - **A step is of the time when its layer was made**, by this build or an earlier one, and one without a layer of
//!   that of the step before it, so that a build which finds all done gives the image that is there, to its ID.
//!   (BuildKit does the same.) The time is that of the snapshot: the cache keeps none of its own.
//! - **A container cannot outlive strata.** The runtime is the first process of a process namespace and is killed with
//!   the thread that started it, so a kill of strata ends everything, and a snapshot that recovery gives back has no
//!   writer. No process watches over a container, and no file describes one.
//! - **A container's mounts are in a fresh mount namespace** below a tmpfs, with the bundle and the runtime's state: a
//!   crash leaves nothing to clear up, and two containers of one process never meet. No mount table shows them to
//!   others; so the snapshot is claimed while it is written to, and nobody commits or removes it.
//! - **Mount points are made by strata, not by the runtime**, which would not say what it made. Where the snapshot is
//!   to be kept, they are noted first, durably, in a label of it: after a crash recovery takes away those that are
//!   still as they were made. Whoever reads a snapshot that somebody works on recovers first, too.
//! - **A container of a build, and one of `run --rm`, waits for no disk**: its overlay is volatile, so `fsync` in it
//!   and its unmount cost nothing. What a build keeps is brought to disk as a whole, by the one sync before the image
//!   has a name; what a crash leaves is discarded in any case.
//! - **Control groups are made by strata**, beside its own group, and the runtime is put into them before it runs. So
//!   the limits hold for every runtime, and strata knows what to remove: a killed runtime leaves its groups. The
//!   runtime sees version 2 alone, read-only, because some refuse a machine that has both. A machine without a usable
//!   controller gives no limit, which `-v` says.
//! - **A private network goes through pasta**, which needs no bridge, no packet filter and no setting of the machine.
//!   strata starts it, not the runtime: crun as the first process waits for every child. pasta ends with the thread
//!   that started it. Where it is missing or fails, the container has no network, and one line says so.
//! - **No device of the machine reaches a container**: the root and every other mount are `nodev`, and `MKNOD` is never
//!   given, so the promise needs no control group. crun takes `nodev` from the root when it binds it; a hook of the
//!   container gives it back before the command runs, with every runtime.
//! - **The filter of system calls is the stricter of Docker's and podman's**: commands of a build need neither nested
//!   namespaces nor keyrings. `RUN --network=host` needs the caller's `--network host`, for a Dockerfile may be a
//!   stranger's.
//! - **What strata makes itself has mtime 0**: the directories of `WORKDIR`, the missing parents of a `COPY` target,
//!   the file of a here-document. The time of the build would make another layer each time, and on each strategy.
//! - **Times are clamped in the tree, not in the stream**: a layer that is written later is the one whose digest was
//!   recorded.
//! - **A stage that nobody needs is not evaluated**: its base is not asked for, and its mistakes are no errors, as with
//!   BuildKit. The text names most of what a stage needs; a name with a variable, or in a trigger of an image, is found
//!   during evaluation, which then begins anew with that stage.
//! - **Docker judges Dockerfiles**: the suite builds fixed and random ones with strata and with Docker. Each difference
//!   that may be is in a list, with its reason and with what the difference looks like, so that it hides no other.
//! - **An image of a build is the documents alone**; its manifest names each layer by the stream that was digested.
//! - **Here-documents of `RUN` are taken out before the Dockerfile is parsed**: the parser knows them only where
//!   nothing else stands on the line. They become comments of the same length, so positions stay right.
//!
//! ## Conformance
//!
//! - **The suite is part of the program**: the question whether a strategy is right is asked on machines where nobody
//!   builds anything. So it has a generator and a shrinker of its own, and `proptest` stays a tool of the tests.
//! - **A script is shrunk as operations, not as the numbers that it was made of**: what is printed is what is tried
//!   again, and people can change it. An edit that the model does not allow is left out, so any part of a script is
//!   one.
//! - **Known deviations follow from the mount**, not from the name of a strategy: they are the kernel's, and anybody's
//!   snapshotter that hands out an overlay has them. Each names what its failure says, so that it hides no other.
//! - **Every case about content ends with a commit and a view**: what a program saw is what the next layer must show.
//! - **The suite sees system calls that are not safe**, as the strategies do: a mapped file is read through
//!   `/proc/self/mem`, where the kernel answers for what another process may have cut off.
//! - **What time a fresh root directory has is judged on strata's stores only**: the contract does not say it, and
//!   everything else about layers can be judged when the suite sets it.
