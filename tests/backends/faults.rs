//! Every call that a store makes of its backend fails once, and the process dies at every one: nothing that was
//! committed is lost, nothing half-made is visible, no debris is left.
