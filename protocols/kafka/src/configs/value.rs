//! Types of configuration values and their checks.

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Boolean,
    /// 32 bits, at least and at most.
    Int(i32, i32),
    /// 64 bits, at least.
    Long(i64),
    /// At least and at most.
    Double(f64, f64),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Comma-separated, each one of these.
    ListOf(&'static [&'static str]),
    /// `*`, nothing, or comma-separated `partition:broker`.
    ThrottledReplicas,
    Text,
    /// Never described with its value.
    Password,
}

pub const ANY_INT: Kind = Kind::Int(i32::MIN, i32::MAX);
pub const ANY_LONG: Kind = Kind::Long(i64::MIN);

impl Kind {
    /// The type's number in DescribeConfigs.
    pub fn code(self) -> i8 {
        match self {
            Kind::Boolean => 1,
            Kind::OneOf(_) | Kind::Text => 2,
            Kind::Int(..) => 3,
            Kind::Long(_) => 5,
            Kind::Double(..) => 6,
            Kind::ListOf(_) | Kind::ThrottledReplicas => 7,
            Kind::Password => 9,
        }
    }

    pub fn is_list(self) -> bool {
        matches!(self, Kind::ListOf(_) | Kind::ThrottledReplicas)
    }

    /// Checks a trimmed value; says what is wrong with it.
    pub fn check(self, value: &str) -> Result<(), String> {
        match self {
            Kind::Boolean => match value.to_ascii_lowercase().as_str() {
                "true" | "false" => Ok(()),
                _ => Err("Expected value to be either true or false".into()),
            },
            Kind::Int(min, max) => {
                let number: i32 = value.parse().map_err(|_| "Not a number of type INT")?;
                if number < min {
                    return Err(format!("Value must be at least {min}"));
                }
                if number > max {
                    return Err(format!("Value must be no more than {max}"));
                }
                Ok(())
            }
            Kind::Long(min) => {
                let number: i64 = value.parse().map_err(|_| "Not a number of type LONG")?;
                if number < min {
                    return Err(format!("Value must be at least {min}"));
                }
                Ok(())
            }
            Kind::Double(min, max) => {
                let number: f64 = value.parse().map_err(|_| "Not a number of type DOUBLE")?;
                if !(min..=max).contains(&number) {
                    return Err(format!("Value must be between {min} and {max}"));
                }
                Ok(())
            }
            Kind::OneOf(valid) if valid.contains(&value) => Ok(()),
            Kind::OneOf(valid) => Err(format!("String must be one of: {}", valid.join(", "))),
            Kind::ListOf(valid) => match list(value).find(|item| !valid.contains(item)) {
                None => Ok(()),
                Some(_) => Err(format!("String must be one of: {}", valid.join(", "))),
            },
            Kind::ThrottledReplicas => {
                let pair = |item: &str| {
                    let (partition, broker) = item.split_once(':')?;
                    Some((partition.parse::<u32>().ok()?, broker.parse::<u32>().ok()?))
                };
                if value == "*" || list(value).all(|item| pair(item).is_some()) {
                    return Ok(());
                }
                Err("must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],...".into())
            }
            Kind::Text | Kind::Password => Ok(()),
        }
    }
}

/// Items of a comma-separated value, without spaces around them; none of an empty one.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks() {
        assert!(Kind::Boolean.check("TRUE").is_ok());
        assert!(Kind::Boolean.check("yes").is_err());
        assert!(Kind::Int(1, 9).check("9").is_ok());
        assert!(Kind::Int(1, 9).check("10").is_err());
        assert!(Kind::Int(1, 9).check("0").is_err());
        assert!(Kind::Int(1, 9).check("99999999999").is_err());
        assert!(Kind::Long(-1).check("-1").is_ok());
        assert!(Kind::Long(-1).check("-2").is_err());
        assert!(Kind::Double(0.0, 1.0).check("0.5").is_ok());
        assert!(Kind::Double(0.0, 1.0).check("NaN").is_err());
        assert!(Kind::ListOf(&["a", "b"]).check("a, b").is_ok());
        assert!(Kind::ListOf(&["a", "b"]).check("").is_ok());
        assert!(Kind::ListOf(&["a", "b"]).check("c").is_err());
        assert!(Kind::ThrottledReplicas.check("0:1, 3:4").is_ok());
        assert!(Kind::ThrottledReplicas.check("*").is_ok());
        assert!(Kind::ThrottledReplicas.check("0").is_err());
    }
}
