package tokens

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"gatehouse/terminal"
)

// maxInput is more than any configuration takes, so that a token that is too long is told as one.
const maxInput = 1 << 20

// Read takes the token from where it leaves the fewest traces that the caller lets it.
func Read(stdin io.Reader, stderr io.Writer, argument string) (string, error) {
	var in io.Reader
	switch file, isFile := strings.CutPrefix(argument, "@"); {
	case argument == "-":
		if terminal.Is(stdin) {
			fmt.Fprintln(stderr, "paste the token, then Enter and Ctrl-D:")
		}
		in = stdin
	case isFile:
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("reading the token: %w", err)
		}
		defer f.Close()
		in = f
	default:
		fmt.Fprintln(stderr, "warning: a token that is an argument stays in the shell's history: give it on standard input, or as @FILE")
		in = strings.NewReader(argument)
	}
	text, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if scheme, rest, ok := strings.Cut(token, " "); ok && strings.EqualFold(scheme, "Bearer") { // copied with the header
		token = strings.TrimSpace(rest)
	}
	switch {
	case token == "":
		return "", errors.New("there is no token on the input")
	case len(text) > maxInput:
		return "", fmt.Errorf("the token is longer than %d bytes", maxInput)
	}
	return token, nil
}
