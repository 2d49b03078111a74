package routes

import (
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// argument is one of the arguments of a converter: int(min=1), any(a, b).
type argument struct{ name, value string }

// parseArguments reads them as Werkzeug does.
func parseArguments(text string) ([]argument, error) {
	var args []argument
	for rest := text + ","; strings.TrimSpace(rest) != ""; {
		if strings.TrimSpace(rest) == "," {
			break
		}
		m := werkzeugArgument.FindStringSubmatch(rest)
		if m == nil {
			return nil, fmt.Errorf("can't read converter arguments %q", text)
		}
		value := m[2]
		if m[3] != "" {
			value = m[3][1 : len(m[3])-1]
		}
		args = append(args, argument{name: m[1], value: value})
		rest = rest[len(m[0]):]
	}
	return args, nil
}

// werkzeugConverter builds a converter with its arguments (werkzeug/routing/converters.py).
func (s *settings) werkzeugConverter(name, args string) (*converter, error) {
	arguments, err := parseArguments(args)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = "default"
	}
	if c := s.custom[name]; c != nil {
		if len(arguments) > 0 {
			return nil, fmt.Errorf("converter %q is the application's own: its arguments can't be expressed", name)
		}
		return c, nil
	}
	switch name {
	case "default", "string":
		return stringConverter(arguments)
	case "any":
		return anyConverter(arguments)
	case "path":
		if len(arguments) > 0 {
			return nil, fmt.Errorf("converter %q takes no arguments", name)
		}
		return &converter{kind: kindPath, py: `[^/].*?`, expr: `[^/].*?`, weight: 200}, nil
	case "int", "float":
		return numberConverter(name, arguments)
	case "uuid":
		if len(arguments) > 0 {
			return nil, fmt.Errorf("converter %q takes no arguments", name)
		}
		const hex = `[A-Fa-f0-9]`
		expr := hex + `{8}-` + hex + `{4}-` + hex + `{4}-` + hex + `{4}-` + hex + `{12}`
		return &converter{kind: kindUUID, py: expr, expr: expr, weight: 100, isolating: true}, nil
	}
	return nil, fmt.Errorf("unknown converter %q (one of the application's own belongs under converters:)", name)
}

// named gives positional arguments the names of the converter's parameters.
func named(arguments []argument, names ...string) (map[string]string, error) {
	values := map[string]string{}
	for i, a := range arguments {
		if a.name == "" && i < len(names) {
			a.name = names[i]
		}
		if !slices.Contains(names, a.name) {
			return nil, fmt.Errorf("unexpected converter argument %q", a.name+"="+a.value)
		}
		if a.value != "None" {
			values[a.name] = a.value
		}
	}
	return values, nil
}

// maxLength keeps lengths within what Go's regexp can repeat and any path can hold.
const maxLength = 1000

func stringConverter(arguments []argument) (*converter, error) {
	values, err := named(arguments, "minlength", "maxlength", "length")
	if err != nil {
		return nil, err
	}
	c := &converter{kind: kindText, minLen: 1, weight: 100, isolating: true}
	number := func(name string, into *int) {
		if text, ok := values[name]; ok && err == nil {
			if *into, err = strconv.Atoi(text); err != nil || *into < 0 || *into > maxLength {
				err = fmt.Errorf("%s=%s is not a number between 0 and %d", name, text, maxLength)
			}
		}
	}
	number("minlength", &c.minLen)
	number("maxlength", &c.maxLen)
	if c.py = fmt.Sprintf("[^/]{%d,%s}", c.minLen, values["maxlength"]); values["length"] != "" {
		number("length", &c.minLen)
		c.maxLen, c.py = c.minLen, fmt.Sprintf("[^/]{%d}", c.minLen)
	}
	if err == nil && c.maxLen == 0 && (values["maxlength"] != "" || values["length"] != "") {
		err = fmt.Errorf("a length of 0 can't be expressed")
	}
	c.expr = c.py
	return c, err
}

func anyConverter(arguments []argument) (*converter, error) {
	c := &converter{kind: kindAny, weight: 100, isolating: true}
	var quoted []string
	for _, a := range arguments {
		if _, err := strconv.ParseFloat(a.value, 64); err == nil || a.name != "" || a.value == "True" || a.value == "False" {
			return nil, fmt.Errorf("any: item %q is not a string to Werkzeug", a.value)
		}
		c.items = append(c.items, a.value)
		quoted = append(quoted, regexp.QuoteMeta(a.value))
	}
	c.expr = "(?:" + strings.Join(quoted, "|") + ")"
	c.py = c.expr
	return c, nil
}

func numberConverter(name string, arguments []argument) (*converter, error) {
	names := []string{"fixed_digits", "min", "max", "signed"}
	c := &converter{kind: kindInt, unicode: true, expr: `\p{Nd}+`, weight: 50, isolating: true}
	if name == "float" {
		names = names[1:]
		c.kind, c.expr = kindFloat, `\p{Nd}+\.\p{Nd}+`
	}
	values, err := named(arguments, names...)
	if err != nil {
		return nil, err
	}
	if text, ok := values["fixed_digits"]; ok {
		if c.fixedDigits, err = strconv.Atoi(text); err != nil {
			return nil, fmt.Errorf("fixed_digits=%s is not a number", text)
		}
	}
	for key, into := range map[string]**big.Rat{"min": &c.min, "max": &c.max} {
		if text, ok := values[key]; ok {
			limit, ok := new(big.Rat).SetString(text)
			if !ok || len(text) > 40 {
				return nil, fmt.Errorf("%s=%s is not a number", key, text)
			}
			*into = limit
		}
	}
	if text := values["signed"]; text == "True" {
		c.signed, c.expr = true, "-?"+c.expr
	} else if text != "" && text != "False" {
		return nil, fmt.Errorf("signed=%s is neither True nor False", text)
	}
	c.py = c.expr
	return c, nil
}
