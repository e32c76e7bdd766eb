//! CEL becomes an [`Expression`].

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use cel::parser::{ParseError, PrattParser};
use regex::bytes::{Regex, RegexBuilder};
use tapedeck_model::{Anomaly, Role, Side};

use crate::Filter;
use crate::error::FilterError;
use crate::expression::{
    Expression, Flag, NumberField, NumberTest, Order, TextField, TextTest, WorkloadField,
};
use crate::literal;

/// Reads and compiles a filter.
pub(crate) fn compile(text: &str) -> Result<Expression, FilterError> {
    if text.len() > Filter::MAX_LEN {
        let message = format!(
            "a filter of {} bytes; the limit is {}",
            text.len(),
            Filter::MAX_LEN
        );
        return Err(FilterError::new(text, Filter::MAX_LEN, message));
    }
    let tree = parse(text).map_err(|errors| syntax_error(text, &errors))?;
    boolean(&tree).map_err(|mistake| {
        let offset = offset_of(text, mistake.at).unwrap_or(0);
        FilterError::new(text, offset, mistake.message)
    })
}

/// With the Pratt parser by name: `cel::parser::Parser` is the ANTLR one even where the feature
/// `parser_pratt` is on, and can be made to take a GiB (cel-rust#306).
fn parse(text: &str) -> Result<IdedExpr, Vec<ParseError>> {
    PrattParser::new()
        .parse(text)
        .map_err(|errors| errors.errors)
}

fn syntax_error(text: &str, errors: &[ParseError]) -> FilterError {
    let Some(error) = errors.first() else {
        return FilterError::new(text, 0, "the filter cannot be read".to_owned());
    };
    // Line and column count from 1; the column in characters.
    let (line, column) = error.pos;
    let line_start: usize = text
        .split_inclusive('\n')
        .take(usize::try_from(line - 1).unwrap_or(0))
        .map(str::len)
        .sum();
    let in_line = text.get(line_start..).unwrap_or_default();
    let column = usize::try_from(column - 1).unwrap_or(0);
    let offset = in_line
        .char_indices()
        .nth(column)
        .map_or(in_line.len(), |(offset, _)| offset);
    let message = error.msg.trim_start_matches("Syntax error: ").to_owned();
    FilterError::new(text, line_start + offset, message)
}

/// Where in the text a node of the tree stands.
///
/// The parser hands its table of places out with errors only. A closing parenthesis too many at the
/// end is one, and leaves the numbers of all nodes before it as they were. The line break keeps it
/// out of a comment.
fn offset_of(text: &str, id: u64) -> Option<usize> {
    let errors = parse(&format!("{text}\n)")).err()?;
    let places = errors.iter().find_map(|error| error.source_info.as_ref())?;
    let (start, _) = places.offset_for(id)?;
    let start = start as usize;
    // Of `a.b` and `a.b(`, the parser notes the dot and the parenthesis.
    match text.as_bytes().get(start)? {
        b'.' => Some(start + 1),
        b'(' => {
            let name = text.get(..start)?.trim_end();
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            Some(name.trim_end_matches(is_name).len())
        }
        _ => Some(start),
    }
}

/// What is wrong, and at which node.
struct Mistake {
    at: u64,
    message: String,
}

fn mistake<T>(at: &IdedExpr, message: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake {
        at: at.id,
        message: message.into(),
    })
}

/// What a part of a filter is.
enum Term {
    Test(Expression),
    Text(TextField),
    Number(NumberField, Unit),
    /// `size(text)`.
    Size(TextField),
    Headers(Role),
    Anomalies,
    Literal(Literal),
    List(Vec<Literal>),
    Null,
}

#[derive(Clone)]
enum Literal {
    Text(Box<[u8]>),
    Number(i128, Unit),
}

/// What a number counts. Only like can be compared with like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Unit {
    Number,
    Duration,
    Time,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Duration => "a duration, such as duration(\"500ms\")",
            Self::Time => "a timestamp, such as timestamp(\"2026-11-21T10:00:00Z\")",
        }
    }
}

impl Term {
    const fn name(&self) -> &'static str {
        match self {
            Self::Test(_) => "a bool",
            Self::Text(_) | Self::Literal(Literal::Text(_)) => "a string",
            Self::Number(_, unit) | Self::Literal(Literal::Number(_, unit)) => unit.name(),
            Self::Size(_) => "a number",
            Self::Headers(_) => "a map of header fields",
            Self::Anomalies => "a list of anomalies",
            Self::List(_) => "a list",
            Self::Null => "null",
        }
    }
}

fn boolean(node: &IdedExpr) -> Result<Expression, Mistake> {
    match term(node)? {
        Term::Test(expression) => Ok(expression),
        other => mistake(
            node,
            format!("a bool is expected here, not {}", other.name()),
        ),
    }
}

fn term(node: &IdedExpr) -> Result<Term, Mistake> {
    match &node.expr {
        Expr::Literal(value) => literal(node, value),
        Expr::Ident(_) => name(node),
        Expr::Select(select) if select.test => {
            present(node, &name_of_select(node, select)?).map(Term::Test)
        }
        Expr::Select(_) => name(node),
        Expr::Call(call) => self::call(node, call),
        Expr::List(list) => {
            let elements = list.elements.iter().map(|element| match term(element)? {
                Term::Literal(literal) => Ok(literal),
                other => mistake(
                    element,
                    format!("a list holds literals only, not {}", other.name()),
                ),
            });
            elements.collect::<Result<_, _>>().map(Term::List)
        }
        Expr::Comprehension(_) => mistake(
            node,
            "all(), exists(), map() and filter() are not supported in filters",
        ),
        Expr::Map(_) | Expr::Struct(_) => {
            mistake(node, "maps and messages are not supported in filters")
        }
        Expr::Unspecified => mistake(node, "an expression is missing here"),
    }
}

fn literal(node: &IdedExpr, value: &LiteralValue) -> Result<Term, Mistake> {
    let number = |number: i128| Term::Literal(Literal::Number(number, Unit::Number));
    Ok(match value {
        LiteralValue::Boolean(value) => Term::Test(Expression::Constant(*value.inner())),
        LiteralValue::Bytes(bytes) => Term::Literal(Literal::Text(bytes.inner().into())),
        LiteralValue::String(text) => Term::Literal(Literal::Text(text.inner().as_bytes().into())),
        LiteralValue::Int(value) => number((*value.inner()).into()),
        LiteralValue::UInt(value) => number((*value.inner()).into()),
        LiteralValue::Null => Term::Null,
        LiteralValue::Double(value) => {
            let value = *value.inner();
            // Every number of an exchange is whole; `500.0` is taken for what it means.
            if value.fract() != 0.0 || value.abs() > 9e15 {
                return mistake(node, "only whole numbers can be compared here");
            }
            number(value as i128)
        }
    })
}

/// The names of `a.b.c`; `None` for anything else.
fn path(node: &IdedExpr) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}.{}", path(&select.operand)?, select.field))
        }
        _ => None,
    }
}

fn name(node: &IdedExpr) -> Result<Term, Mistake> {
    let Some(path) = path(node) else {
        return mistake(node, "only names have fields, as in request.method");
    };
    resolve(node, &path)
}

fn name_of_select(node: &IdedExpr, select: &SelectExpr) -> Result<Term, Mistake> {
    let Some(operand) = path(&select.operand) else {
        return mistake(node, "has() asks for a name, as in has(request.method)");
    };
    resolve(node, &format!("{operand}.{}", select.field))
}

fn resolve(node: &IdedExpr, path: &str) -> Result<Term, Mistake> {
    let number = |field| Ok(Term::Number(field, Unit::Number));
    let text = |field| Ok(Term::Text(field));
    let flag = |flag| Ok(Term::Test(Expression::Flag(flag)));
    match path {
        "request.method" => text(TextField::Method),
        "request.scheme" => text(TextField::Scheme),
        "request.authority" => text(TextField::Authority),
        "request.target" => text(TextField::Target),
        "request.path" => text(TextField::Path),
        "request.query" => text(TextField::Query),
        "request.size" => number(NumberField::RequestSize),
        "request.headers" => Ok(Term::Headers(Role::Request)),
        "response.status" => number(NumberField::Status),
        "response.grpc_status" => number(NumberField::GrpcStatus),
        "response.size" => number(NumberField::ResponseSize),
        "response.headers" => Ok(Term::Headers(Role::Response)),
        "duration" => Ok(Term::Number(NumberField::Duration, Unit::Duration)),
        "first_byte" => Ok(Term::Number(NumberField::FirstByte, Unit::Duration)),
        "time" => Ok(Term::Number(NumberField::Time, Unit::Time)),
        "client" => text(TextField::Client),
        "client.ip" => text(TextField::ClientIp),
        "client.port" => number(NumberField::ClientPort),
        "server" => text(TextField::Server),
        "server.ip" => text(TextField::ServerIp),
        "server.port" => number(NumberField::ServerPort),
        "protocol" => text(TextField::Protocol),
        "endpoint" => text(TextField::Endpoint),
        "session" => text(TextField::Session),
        "tls" => flag(Flag::Tls),
        "tls.server_name" => text(TextField::TlsServerName),
        "tls.alpn" => text(TextField::TlsAlpn),
        "tls.version" => text(TextField::TlsVersion),
        "workload.client.pid" => number(NumberField::WorkloadPid(Side::Client)),
        "workload.server.pid" => number(NumberField::WorkloadPid(Side::Server)),
        "id" => number(NumberField::Id),
        "connection" => number(NumberField::Connection),
        "stream" => number(NumberField::Stream),
        "complete" => flag(Flag::Complete),
        "tunnel" => flag(Flag::Tunnel),
        "pushed" => flag(Flag::Pushed),
        "anomalies" => Ok(Term::Anomalies),
        _ => match workload(path) {
            Some(field) => text(field),
            None => mistake(node, unknown_name(path)),
        },
    }
}

/// `workload.client.pod` and its like.
fn workload(path: &str) -> Option<TextField> {
    let (side, field) = path.strip_prefix("workload.")?.split_once('.')?;
    let side = match side {
        "client" => Side::Client,
        "server" => Side::Server,
        _ => return None,
    };
    let field = match field {
        "namespace" => WorkloadField::Namespace,
        "pod" => WorkloadField::Pod,
        "container" => WorkloadField::Container,
        "owner" => WorkloadField::Owner,
        "process" => WorkloadField::Process,
        "cgroup" => WorkloadField::Cgroup,
        _ => return None,
    };
    Some(TextField::Workload(side, field))
}

fn unknown_name(path: &str) -> String {
    let there_is = match path.split_once('.') {
        None if matches!(path, "request" | "response" | "workload") => {
            return format!("`{path}` as a whole cannot be compared; name a field of it");
        }
        Some(("request", field)) if field.starts_with("headers.") => {
            return "header fields are named as in request.headers[\"accept\"]".to_owned();
        }
        Some(("response", field)) if field.starts_with("headers.") => {
            return "header fields are named as in response.headers[\"server\"]".to_owned();
        }
        Some(("request", _)) => {
            "`request` has method, scheme, authority, target, path, query, size, headers"
        }
        Some(("response", _)) => "`response` has status, grpc_status, size, headers",
        Some(("client" | "server", _)) => "`client` and `server` have ip and port",
        Some(("tls", _)) => "`tls` has server_name, alpn, version",
        Some(("workload", _)) => {
            "`workload.client` and `workload.server` have namespace, pod, container, owner, process, \
             pid, cgroup"
        }
        _ => {
            "there are request, response, duration, first_byte, time, client, server, workload, tls, \
             endpoint, session, protocol, id, connection, stream, complete, tunnel, pushed, anomalies"
        }
    };
    format!("unknown name `{path}`; {there_is}")
}

fn call(node: &IdedExpr, call: &CallExpr) -> Result<Term, Mistake> {
    let CallExpr {
        func_name,
        target,
        args,
    } = call;
    match (func_name.as_str(), target.as_deref(), args.as_slice()) {
        (operators::LOGICAL_AND, None, [left, right]) => {
            let mut operands = Vec::new();
            for operand in [boolean(left)?, boolean(right)?] {
                match operand {
                    Expression::All(inner) => operands.extend(inner),
                    other => operands.push(other),
                }
            }
            Expression::sort_by_cost(&mut operands);
            Ok(Term::Test(Expression::All(operands)))
        }
        (operators::LOGICAL_OR, None, [left, right]) => {
            let mut operands = Vec::new();
            for operand in [boolean(left)?, boolean(right)?] {
                match operand {
                    Expression::Any(inner) => operands.extend(inner),
                    other => operands.push(other),
                }
            }
            Expression::sort_by_cost(&mut operands);
            Ok(Term::Test(Expression::Any(operands)))
        }
        (operators::LOGICAL_NOT, None, [operand]) => {
            let operand = boolean(operand)?;
            Ok(Term::Test(Expression::Not(Box::new(operand))))
        }
        (operators::CONDITIONAL, None, [condition, then, otherwise]) => {
            let inner = [boolean(condition)?, boolean(then)?, boolean(otherwise)?];
            Ok(Term::Test(Expression::If(Box::new(inner))))
        }
        (operators::NEGATE, None, [operand]) => match term(operand)? {
            Term::Literal(Literal::Number(number, unit)) => {
                Ok(Term::Literal(Literal::Number(-number, unit)))
            }
            other => mistake(node, format!("{} cannot be negated", other.name())),
        },
        (operators::INDEX, None, [map, key]) => index(map, key),
        (operators::IN, None, [element, list]) => is_in(element, list).map(Term::Test),
        ("duration", None, [argument]) => nanos(argument, Unit::Duration, literal::duration),
        ("timestamp", None, [argument]) => nanos(argument, Unit::Time, literal::timestamp),
        ("size", None, [text]) | ("size", Some(text), []) => match term(text)? {
            Term::Text(field) => Ok(Term::Size(field)),
            other => mistake(text, format!("size() of {} is not supported", other.name())),
        },
        (function, Some(text), [argument]) => {
            text_function(node, function, text, argument).map(Term::Test)
        }
        (function, None, [left, right]) => match order(function) {
            Some(order) => compare(node, order, left, right).map(Term::Test),
            None => mistake(node, unknown_function(function)),
        },
        (function, ..) => mistake(node, unknown_function(function)),
    }
}

fn order(function: &str) -> Option<Order> {
    Some(match function {
        operators::EQUALS => Order::Equal,
        operators::NOT_EQUALS => Order::NotEqual,
        operators::LESS => Order::Less,
        operators::LESS_EQUALS => Order::LessOrEqual,
        operators::GREATER => Order::Greater,
        operators::GREATER_EQUALS => Order::GreaterOrEqual,
        _ => return None,
    })
}

fn unknown_function(function: &str) -> String {
    match function {
        operators::ADD
        | operators::SUBSTRACT
        | operators::MULTIPLY
        | operators::DIVIDE
        | operators::MODULO => "arithmetic is not supported in filters".to_owned(),
        _ => format!(
            "there is no function `{function}` of these arguments; there are startsWith, endsWith, \
             contains, matches, size, has, duration, timestamp"
        ),
    }
}

fn compare(
    node: &IdedExpr,
    order: Order,
    left: &IdedExpr,
    right: &IdedExpr,
) -> Result<Expression, Mistake> {
    let (left, right) = (term(left)?, term(right)?);
    let is_literal = |term: &Term| {
        matches!(
            term,
            Term::Literal(_) | Term::Null | Term::Test(Expression::Constant(_))
        )
    };
    let (left, right, order) = if is_literal(&left) && !is_literal(&right) {
        (right, left, order.flipped())
    } else {
        (left, right, order)
    };
    let names = (left.name(), right.name());
    match (left, right) {
        (Term::Text(field), Term::Literal(Literal::Text(text))) => {
            Ok(Expression::Text(field, TextTest::Compare(order, text)))
        }
        (Term::Number(field, unit), Term::Literal(Literal::Number(number, other)))
            if unit == other =>
        {
            Ok(Expression::Number(
                field,
                NumberTest::Compare(order, number),
            ))
        }
        (Term::Size(field), Term::Literal(Literal::Number(number, Unit::Number))) => {
            let test = NumberTest::Compare(order, number);
            Ok(Expression::Text(field, TextTest::Size(test)))
        }
        (Term::Test(test), Term::Test(Expression::Constant(value)))
            if matches!(order, Order::Equal | Order::NotEqual) =>
        {
            if value == (order == Order::Equal) {
                Ok(test)
            } else {
                Ok(Expression::Not(Box::new(test)))
            }
        }
        (left, Term::Null) if matches!(order, Order::Equal | Order::NotEqual) => {
            let present = present(node, &left)?;
            if order == Order::NotEqual {
                Ok(present)
            } else {
                Ok(Expression::Not(Box::new(present)))
            }
        }
        (_, Term::Literal(_) | Term::Null) => mistake(
            node,
            format!("{} cannot be compared with {}", names.0, names.1),
        ),
        _ => mistake(node, "a comparison is of a name with a literal"),
    }
}

/// Whether something is there.
fn present(node: &IdedExpr, term: &Term) -> Result<Expression, Mistake> {
    match term {
        Term::Text(field) => Ok(Expression::Text(field.clone(), TextTest::Present)),
        Term::Number(field, _) => Ok(Expression::Number(*field, NumberTest::Present)),
        Term::Test(Expression::Flag(_)) => Ok(Expression::Constant(true)),
        other => mistake(node, format!("{} is always there", other.name())),
    }
}

fn index(map: &IdedExpr, key: &IdedExpr) -> Result<Term, Mistake> {
    let Term::Headers(role) = term(map)? else {
        return mistake(map, "only request.headers and response.headers have keys");
    };
    Ok(Term::Text(TextField::Header(role, header_name(key)?)))
}

fn header_name(key: &IdedExpr) -> Result<String, Mistake> {
    match term(key)? {
        Term::Literal(Literal::Text(name)) => Ok(String::from_utf8_lossy(&name).into_owned()),
        other => mistake(
            key,
            format!(
                "the name of a header field is a string, not {}",
                other.name()
            ),
        ),
    }
}

fn is_in(element: &IdedExpr, list: &IdedExpr) -> Result<Expression, Mistake> {
    let set = match term(list)? {
        Term::List(set) => set,
        Term::Headers(role) => {
            let field = TextField::Header(role, header_name(element)?);
            return Ok(Expression::Text(field, TextTest::Present));
        }
        Term::Anomalies => return anomaly(element),
        other => {
            return mistake(
                list,
                format!("a list is expected here, not {}", other.name()),
            );
        }
    };
    let numbers = |unit: Unit| {
        set.iter()
            .map(|literal| match literal {
                Literal::Number(number, other) if *other == unit => Some(*number),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
    };
    let texts = || {
        set.iter()
            .map(|literal| match literal {
                Literal::Text(text) => Some(text.clone()),
                Literal::Number(..) => None,
            })
            .collect::<Option<Vec<_>>>()
    };
    let term = term(element)?;
    let test = match &term {
        Term::Text(field) => texts().map(|set| Expression::Text(field.clone(), TextTest::In(set))),
        Term::Number(field, unit) => {
            numbers(*unit).map(|set| Expression::Number(*field, NumberTest::In(set)))
        }
        Term::Size(field) => numbers(Unit::Number)
            .map(|set| Expression::Text(field.clone(), TextTest::Size(NumberTest::In(set)))),
        other => {
            return mistake(
                element,
                format!("a name is expected before `in`, not {}", other.name()),
            );
        }
    };
    test.map_or_else(
        || mistake(list, format!("each element must be {}", term.name())),
        Ok,
    )
}

fn anomaly(element: &IdedExpr) -> Result<Expression, Mistake> {
    let Term::Literal(Literal::Text(name)) = term(element)? else {
        return mistake(element, "the name of an anomaly is expected here");
    };
    let found = Anomaly::ALL
        .iter()
        .find(|anomaly| anomaly.name().as_bytes() == &*name);
    match found {
        Some(anomaly) => Ok(Expression::Anomaly(*anomaly)),
        None => {
            let names: Vec<_> = Anomaly::ALL.iter().map(|anomaly| anomaly.name()).collect();
            mistake(
                element,
                format!("there is no such anomaly; there are {}", names.join(", ")),
            )
        }
    }
}

fn nanos(
    argument: &IdedExpr,
    unit: Unit,
    parse: fn(&str) -> Option<i128>,
) -> Result<Term, Mistake> {
    let wrong = || mistake(argument, format!("this is not {}", unit.name()));
    let Term::Literal(Literal::Text(text)) = term(argument)? else {
        return wrong();
    };
    match std::str::from_utf8(&text).ok().and_then(parse) {
        Some(nanos) => Ok(Term::Literal(Literal::Number(nanos, unit))),
        None => wrong(),
    }
}

fn text_function(
    node: &IdedExpr,
    function: &str,
    text: &IdedExpr,
    argument: &IdedExpr,
) -> Result<Expression, Mistake> {
    if !matches!(function, "startsWith" | "endsWith" | "contains" | "matches") {
        return mistake(node, unknown_function(function));
    }
    let field = match term(text)? {
        Term::Text(field) => field,
        other => {
            return mistake(
                node,
                format!("{function}() is of a string, not of {}", other.name()),
            );
        }
    };
    let pattern = match term(argument)? {
        Term::Literal(Literal::Text(pattern)) => pattern,
        other => {
            return mistake(
                argument,
                format!("{function}() takes a string literal, not {}", other.name()),
            );
        }
    };
    let test = match function {
        "startsWith" => TextTest::StartsWith(pattern),
        "endsWith" => TextTest::EndsWith(pattern),
        "contains" => TextTest::Contains(pattern),
        _ => TextTest::Matches(regex(argument, &pattern)?),
    };
    Ok(Expression::Text(field, test))
}

fn regex(argument: &IdedExpr, pattern: &[u8]) -> Result<Regex, Mistake> {
    let Ok(pattern) = std::str::from_utf8(pattern) else {
        return mistake(argument, "a regular expression is UTF-8");
    };
    // The default limit is 10 MiB of compiled program, which `a{1000}{1000}` takes a second to
    // reach.
    match RegexBuilder::new(pattern).size_limit(1 << 20).build() {
        Ok(regex) => Ok(regex),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default();
            let reason = reason.trim_start_matches("error: ");
            mistake(argument, format!("not a regular expression: {reason}"))
        }
    }
}
