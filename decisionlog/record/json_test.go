package record

import (
	"bytes"
	"encoding/json"
	"testing"
)

// FuzzEncoder holds our encoder against encoding/json, which decodes what is then encoded by both.
func FuzzEncoder(f *testing.F) {
	for _, text := range []string{`{"b": [1, -2.5e+7, true, null, ""], "a": {"\u2028\ud800": "\u0000\u001f\"\\\n\t\b\f\r<&>é\u2029"}}`, `12345678901234567890`, `"\ufffd"`, `[]`, `{}`, `{"a": "\udc00"}`} {
		f.Add([]byte(text), "\xff\x80a\xc3")
		f.Add([]byte(text), "a value of some length with \" and \\ and \x1f and \x7f and é in it")
	}
	f.Fuzz(func(t *testing.T, text []byte, raw string) {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		var v any
		if d.Decode(&v) != nil {
			v = raw
		}
		v = map[string]any{"value": v, raw: raw}
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			return
		}
		got, err := new(encoder).append(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, '\n'); !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("got  %s\nwant %s", got, want.Bytes())
		}
		for from := range min(len(raw), 9) { // whatever its bytes are aligned to
			if got, want := appendBytes(nil, []byte(raw[from:])), appendString(nil, raw[from:]); !bytes.Equal(got, want) {
				t.Fatalf("got  %s\nwant %s", got, want)
			}
		}
	})
}
