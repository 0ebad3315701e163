//! Query parameters. An unknown parameter is refused with the list of known ones.

use axum::extract::Query;
use axum::http::Uri;

use super::list::{DEFAULT_LIMIT, MAX_LIMIT, Resource};
use super::problem::Problem;
use super::source::List;

/// The parameters of a request, each at most once.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Parses the parameters of `uri`. A parameter that is not in `known`, or that occurs twice, is an error.
    pub(super) fn of(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let Query(pairs): Query<Vec<(String, String)>> =
            Query::try_from_uri(uri).map_err(|error| Problem::bad_request(error.body_text()))?;
        for (number, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Problem::bad_request(format!("unknown parameter {name:?}: expected one of {known}")));
            }
            if pairs.iter().take(number).any(|(earlier, _)| earlier == name) {
                return Err(Problem::bad_request(format!("duplicate parameter {name:?}")));
            }
        }
        Ok(Self(pairs))
    }

    /// Removes a parameter and returns its value.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let place = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.swap_remove(place).1)
    }
}

/// Parses the parameters of a request for a list of `resource`. The parameters named in `more` are allowed as well and returned separately.
pub(super) fn list(resource: &Resource, uri: &Uri, more: &[&str]) -> Result<(List, Parameters), Problem> {
    let mut known: Vec<&str> = resource.filters.iter().map(|(name, _)| *name).chain(more.iter().copied()).collect();
    if !resource.sorts.is_empty() {
        known.push("sort");
    }
    known.extend(["limit", "continue"]);
    let mut parameters = Parameters::of(uri, &known)?;
    let limit = match parameters.take("limit") {
        None => DEFAULT_LIMIT,
        Some(limit) => limit.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
            Problem::bad_request(format!("invalid value {limit:?} for limit: expected a number from 1 to {MAX_LIMIT}"))
        })?,
    };
    let mut list = List { limit, cursor: parameters.take("continue"), ..List::default() };
    if let Some(sort) = parameters.take("sort") {
        let field = sort.strip_prefix('-').unwrap_or(&sort);
        if !resource.sorts.contains(&field) {
            let known = resource.sorts.join(", ");
            return Err(Problem::bad_request(format!(
                "invalid value {sort:?} for sort: expected one of {known}, with the prefix - for descending order"
            )));
        }
        list.descending = sort.starts_with('-');
        list.sort = Some(field.to_owned());
    }
    list.filters = take_filters(resource, &mut parameters);
    Ok((list, parameters))
}

/// Parses the parameters of a request that selects items of `resource` and has no pages. The parameters named in `more` are allowed as well and
/// returned separately.
pub(super) fn filters(resource: &Resource, uri: &Uri, more: &[&str]) -> Result<(List, Parameters), Problem> {
    let known: Vec<&str> = resource.filters.iter().map(|(name, _)| *name).chain(more.iter().copied()).collect();
    let mut parameters = Parameters::of(uri, &known)?;
    let filters = take_filters(resource, &mut parameters);
    Ok((List { filters, ..List::default() }, parameters))
}

fn take_filters(resource: &Resource, parameters: &mut Parameters) -> Vec<(String, String)> {
    let value = |(name, _): &(&'static str, &'static str)| Some(((*name).to_owned(), parameters.take(name)?));
    resource.filters.iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::super::list::{LAYERS, WHO_HAS};
    use super::*;

    #[test]
    fn list_parameters_are_parsed_and_invalid_ones_are_refused_with_the_valid_ones() {
        let parse = |query: &str| list(&LAYERS, &format!("/x?{query}").parse().unwrap(), &[]).map(|(list, _)| list);
        let all = parse("state=known&sort=-findings&limit=7&continue=abc&node=a%20b").unwrap();
        assert_eq!(all.filters, [("state", "known"), ("node", "a b")].map(|(key, value)| (key.into(), value.into())));
        assert_eq!((all.sort.as_deref(), all.descending, all.limit), (Some("findings"), true, 7));
        assert_eq!(all.cursor.as_deref(), Some("abc"));
        assert_eq!(parse("").unwrap(), List { limit: DEFAULT_LIMIT, ..List::default() });
        for (query, expected) in [
            ("color=red", "expected one of id, state, disputed, node, stack, sort, limit, continue"),
            ("sort=color", "expected one of id, findings, containers"),
            ("sort=--id", "expected one of id"),
            ("limit=0", "from 1 to 1000"),
            ("limit=1001", "from 1 to 1000"),
            ("limit=all", "from 1 to 1000"),
            ("node=a&node=b", "duplicate parameter"),
        ] {
            let problem = format!("{:?}", parse(query).unwrap_err());
            assert!(problem.contains(expected), "{query}: {problem}");
        }
        let uri = "/x?q=bash&limit=2".parse().unwrap();
        let (list, mut more) = list(&WHO_HAS, &uri, &["q"]).unwrap();
        assert_eq!((list.limit, more.take("q").as_deref()), (2, Some("bash")));
    }
}
