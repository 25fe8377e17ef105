//! Shortens a failing script.

use crate::conformance::ops::Op;

/// Maximum number of attempts; each takes tens of milliseconds.
const TRIES_MAX: u32 = 300;

/// Returns a shorter script for which `fails` still returns true, found by leaving out parts of `script`. Edits that
/// depended on a removed operation are not performed, because the model does not allow them.
pub fn shrink(mut script: Vec<Op>, fails: &mut dyn FnMut(&[Op]) -> bool) -> Vec<Op> {
    let mut length = script.len() / 2;
    let mut tries = 0;
    while length > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < script.len() && tries < TRIES_MAX {
            let mut without = script.clone();
            without.drain(at..script.len().min(at + length));
            tries += 1;
            if fails(&without) {
                script = without;
                shorter = true;
            } else {
                at += length;
            }
        }
        // Single operations are tried again until none can be removed.
        if !(length == 1 && shorter && tries < TRIES_MAX) {
            length /= 2;
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::random::script;

    #[test]
    fn what_does_not_matter_goes() {
        let long = (0..100).map(|number| script(1, number)).find(|script| script.len() > 30).expect("a long script");
        let wanted = [long[3].clone(), long[20].clone()];
        let short = shrink(long, &mut |script| wanted.iter().all(|op| script.contains(op)));
        assert_eq!(short, wanted);
    }
}
