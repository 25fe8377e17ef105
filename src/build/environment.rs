//! The environment of a container: `NAME=VALUE` in order, found by name.
//!
//! Invariant: setting and finding a variable take constant time, however many there are.

use std::collections::HashMap;

use super::words::Values;

/// Variables in the order in which a container gets them.
#[derive(Debug)]
pub(super) struct Environment {
    list: Vec<String>,
    /// The index in `list` of the last variable of each name.
    places: HashMap<String, usize>,
}

impl Environment {
    /// Returns the environment that `list` describes; if it has several variables of one name, the last one counts.
    pub(super) fn new(list: Vec<String>) -> Self {
        let name = |variable: &String| variable.split('=').next().unwrap_or_default().to_owned();
        let places = list.iter().enumerate().map(|(place, variable)| (name(variable), place)).collect();
        Self { list, places }
    }

    /// Sets the variable `name`. A variable that exists keeps its place in the order.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        let new = format!("{name}={value}");
        match self.places.get(name).and_then(|place| self.list.get_mut(*place)) {
            Some(known) => *known = new,
            None => {
                self.places.insert(name.to_owned(), self.list.len());
                self.list.push(new);
            }
        }
    }

    /// Returns whether there is a variable `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Returns the variables in order.
    pub(super) fn list(&self) -> &[String] {
        &self.list
    }

    /// Returns the variables in order.
    pub(super) fn into_list(self) -> Vec<String> {
        self.list
    }
}

impl Values for Environment {
    fn value(&self, name: &str) -> Option<&str> {
        let variable = self.list.get(*self.places.get(name)?)?;
        variable.split_once('=').map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_name_counts() {
        let mut environment = Environment::new(["A=1", "B", "A=2", "C=x=y"].map(str::to_owned).into());
        assert_eq!((environment.value("A"), environment.value("B")), (Some("2"), None));
        assert_eq!((environment.value("C"), environment.has("B")), (Some("x=y"), true));
        environment.set("A", "3");
        environment.set("D", "4");
        assert_eq!(environment.list(), ["A=1", "B", "A=3", "C=x=y", "D=4"]);
        assert_eq!(environment.value("A"), Some("3"));
    }
}
