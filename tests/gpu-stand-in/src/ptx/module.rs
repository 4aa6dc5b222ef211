//! Splits the text of a module into kernels and declarations.

use std::collections::HashMap;

/// A kernel, not yet decoded.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name in the module.
    pub name: String,
    /// The parameters, in order.
    pub parameters: Vec<Variable>,
    /// The text between its braces, without comments.
    pub body: String,
    /// The shared memory declared at module level.
    pub shared: Vec<Variable>,
}

/// A declared variable: a parameter, or shared or local memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The declared name.
    pub name: String,
    /// Size in bytes; 0 if it is only known at launch.
    pub size: usize,
    /// Alignment in bytes.
    pub alignment: usize,
}

/// Returns the kernels of a module, by name.
pub fn kernels(text: &str) -> HashMap<String, Source> {
    let text = without_comments(text);
    let shared: Vec<Variable> = text
        .lines()
        .filter(|line| line.starts_with(".extern .shared") || line.starts_with(".shared"))
        .filter_map(variable)
        .collect();
    let mut kernels = HashMap::new();
    for part in text.split(".entry ").skip(1) {
        let Some((name, rest)) = part.split_once('(') else {
            continue;
        };
        let (parameters, rest) = rest.split_once(')').unwrap_or((rest, ""));
        let name = name.trim().to_string();
        let source = Source {
            name: name.clone(),
            parameters: parameters.split(',').filter_map(variable).collect(),
            body: braced(rest).to_string(),
            shared: shared.clone(),
        };
        kernels.insert(name, source);
    }
    kernels
}

fn without_comments(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the text between the first brace and its closing brace.
fn braced(text: &str) -> &str {
    let Some(start) = text.find('{') else {
        return "";
    };
    let mut depth = 0;
    for (at, letter) in text[start..].char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[start + 1..start + at];
        }
    }
    ""
}

/// Parses a declaration such as `.shared .align 4 .b8 name[128]`.
pub fn variable(declaration: &str) -> Option<Variable> {
    let declaration = declaration.trim().trim_end_matches(';');
    let mut words = declaration.split_whitespace().peekable();
    let (mut alignment, mut size) = (None, 1);
    while let Some(word) = words.next_if(|word| word.starts_with('.')) {
        if word == ".align" {
            alignment = words.next()?.parse().ok();
        } else if let Some(of_type) = super::number::size_of(&word[1..]) {
            size = of_type;
        }
    }
    let name = words.next()?;
    let (name, count) = match name.split_once('[') {
        Some((name, count)) => (name, count.trim_end_matches(']').parse().unwrap_or(0)),
        None => (name, 1),
    };
    Some(Variable {
        name: name.to_string(),
        size: size * count,
        alignment: alignment.unwrap_or(size),
    })
}

/// Returns the offset of each variable, one after another, and the end of the last.
pub fn offsets(variables: &[Variable]) -> (Vec<usize>, usize) {
    let mut end: usize = 0;
    let offsets = variables.iter().map(|variable| {
        let start = end.next_multiple_of(variable.alignment);
        end = start + variable.size;
        start
    });
    (offsets.collect(), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_parsed_into_name_parameters_and_body() {
        let text = ".visible .entry one(\n\t.param .u64 one_0, // first\n\t.param .align 8 .b8 one_1[12]\n)\n.maxntid 32\n{ a; { b; } }\n.visible .entry two() { c; }";
        let kernels = kernels(text);
        assert_eq!(kernels.len(), 2);
        let one = &kernels["one"];
        assert_eq!(one.body, " a; { b; } ");
        let parameter = |name: &str, size, alignment| Variable {
            name: name.to_string(),
            size,
            alignment,
        };
        assert_eq!(
            one.parameters,
            [parameter("one_0", 8, 8), parameter("one_1", 12, 8)]
        );
        assert_eq!(offsets(&one.parameters), (vec![0, 8], 20));
        assert!(kernels["two"].parameters.is_empty());
    }
}
