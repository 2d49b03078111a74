package credential

import "fmt"

// Redacted is what a Token prints.
const Redacted = "[token]"

// Token is a credential as it came. It prints as a placeholder whatever the verb, so that no log line or error can show it by accident.
type Token struct{ Raw string }

// String implements fmt.Stringer.
func (Token) String() string { return Redacted }

// GoString implements fmt.GoStringer.
func (Token) GoString() string { return Redacted }

// Format implements fmt.Formatter.
func (Token) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) }

// MarshalJSON implements json.Marshaler.
func (Token) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// MarshalText implements encoding.TextMarshaler.
func (Token) MarshalText() ([]byte, error) { return []byte(Redacted), nil }
