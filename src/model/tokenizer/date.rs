//! Dates as Python's `strftime` writes them, for chat templates. In UTC: a prompt says nothing of where the user is.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// From the day of the week of 1 January 1970 on.
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

const DAY_SECONDS: u64 = 24 * 60 * 60;

struct Date {
    year: u64,
    /// From 1.
    month: u64,
    /// From 1.
    day: u64,
    days_since_1970: u64,
    second_of_day: u64,
}

/// The time of `seconds` since the start of 1970. A directive that is unknown stays as it is.
pub(super) fn strftime(format: &str, seconds: u64) -> String {
    let date = Date::of(seconds);
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let is_unpadded = rest.as_str().starts_with('-');
        let directive = rest.nth(usize::from(is_unpadded));
        match directive.and_then(|directive| date.field(directive)) {
            Some(field) if is_unpadded => out += unpadded(&field),
            Some(field) => out += &field,
            None => out.extend(['%'].into_iter().chain(is_unpadded.then_some('-')).chain(directive)),
        }
    }
    out
}

fn unpadded(field: &str) -> &str {
    let digits = field.trim_start_matches(['0', ' ']);
    if digits.is_empty() { "0" } else { digits }
}

impl Date {
    fn of(seconds: u64) -> Self {
        let (days_since_1970, second_of_day) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
        let (mut year, mut day) = (1970, days_since_1970);
        // A format string is no way to keep the program busy: a date is within a few hundred years.
        while day >= days_of_year(year) && year < 9999 {
            day -= days_of_year(year);
            year += 1;
        }
        let mut month = 1;
        while month < 12 && day >= days_of_month(year, month) {
            day -= days_of_month(year, month);
            month += 1;
        }
        Self { year, month, day: day + 1, days_since_1970, second_of_day }
    }

    fn field(&self, directive: char) -> Option<String> {
        let (hour, minute) = (self.second_of_day / 3600, self.second_of_day / 60 % 60);
        let (month, weekday) =
            (MONTHS[self.month as usize - 1], WEEKDAYS[(self.days_since_1970 % 7) as usize]);
        let two = |number: u64| format!("{number:02}");
        Some(match directive {
            'Y' => self.year.to_string(),
            'y' => two(self.year % 100),
            'm' => two(self.month),
            'd' => two(self.day),
            'e' => format!("{:2}", self.day),
            'B' => month.into(),
            'b' | 'h' => month[..3].into(),
            'A' => weekday.into(),
            'a' => weekday[..3].into(),
            'j' => {
                let before: u64 = (1..self.month).map(|month| days_of_month(self.year, month)).sum();
                format!("{:03}", before + self.day)
            }
            'H' => two(hour),
            'I' => two((hour + 11) % 12 + 1),
            'M' => two(minute),
            'S' => two(self.second_of_day % 60),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'F' => format!("{}-{}-{}", self.year, two(self.month), two(self.day)),
            'T' => format!("{}:{}:{}", two(hour), two(minute), two(self.second_of_day % 60)),
            'R' => format!("{}:{}", two(hour), two(minute)),
            'Z' => "UTC".into(),
            'z' => "+0000".into(),
            '%' => "%".into(),
            _ => return None,
        })
    }
}

fn days_of_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_python_does() {
        for (seconds, format, expected) in [
            (0, "%d %B %Y", "01 January 1970"),
            (1_709_210_096, "%A, %d %b %Y %H:%M:%S", "Thursday, 29 Feb 2024 12:34:56"),
            (1_709_210_096, "%F %T %j %-m %e", "2024-02-29 12:34:56 060 2 29"),
            (1_735_689_599, "%Y-%m-%d %I:%M %p", "2024-12-31 11:59 PM"),
            (1_735_689_600, "%-d/%-m/%y %a %I %p %R %Z%z", "1/1/25 Wed 12 AM 00:00 UTC+0000"),
            (951_782_400, "%d.%m.%Y", "29.02.2000"),
            (0, "100%% %Q %-Q %", "100% %Q %-Q %"),
        ] {
            assert_eq!(strftime(format, seconds), expected, "{format}");
        }
        assert!(strftime("%Y %m", u64::MAX).starts_with("9999"));
    }
}
