package rego

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Reader parses JSON texts into values, one after the other, and shares what they have in common. It is not safe for concurrent use; the
// values are.
type Reader struct{ keys, values map[string]*ast.Term }

// Read parses exactly one JSON value with exact numbers. It refuses what FromJSON would.
func (i *Reader) Read(text []byte) (Value, error) {
	if i.keys == nil {
		i.keys, i.values = map[string]*ast.Term{}, map[string]*ast.Term{}
	}
	for _, kept := range []map[string]*ast.Term{i.keys, i.values} {
		if len(kept) >= maxShared {
			clear(kept)
		}
	}
	r := valueReader{Scanner: Scanner{Text: text}, keys: i.keys, values: i.values}
	if term := r.value(0); term != nil && r.Peek() == 0 && r.At == len(text) {
		return term.Value, nil
	}
	var document any
	if _, err := DecodeJSON(bytes.TrimSpace(text), &document); err != nil {
		return nil, err
	}
	return FromJSON(document)
}

// DecodeJSON decodes exactly one JSON value with exact numbers. On an error it returns the line.
func DecodeJSON(content []byte, into any) (int, error) {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	err := decoder.Decode(into)
	if err == nil {
		if _, more := decoder.Token(); more == io.EOF {
			return 0, nil
		}
		err = errors.New("more follows the JSON value")
	}
	return jsonProblem(content, decoder.InputOffset(), err)
}

// jsonProblem returns the line of an error, and its text without Go's terms.
func jsonProblem(content []byte, offset int64, err error) (int, error) {
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return lineAt(content, syntax.Offset), errors.New(syntax.Error())
	case errors.As(err, &wrongType):
		return lineAt(content, wrongType.Offset), fmt.Errorf("%s: a %s does not fit", wrongType.Field, wrongType.Value)
	case err == io.EOF && len(bytes.TrimSpace(content)) == 0:
		return 1, errors.New("empty")
	case err == io.EOF, err == io.ErrUnexpectedEOF:
		return lineAt(content, int64(len(content))), errors.New("ends in the middle of a JSON value")
	}
	return lineAt(content, offset), err
}

func lineAt(content []byte, offset int64) int {
	offset = min(offset, int64(len(content)))
	return 1 + bytes.Count(content[:offset], []byte("\n"))
}
