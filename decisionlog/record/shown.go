package record

import (
	"sync"

	"gatehouse/input"
)

// Shown makes texts about a request fit for others than the log: operators' events, traces, a terminal. What the log leaves out is left out
// there too.
type Shown struct{ o *Packing }

// defaultPacker is for who has no log.
var defaultPacker = sync.OnceValue(func() *Packer { return NewPacker(Config{}) })

// Shown is Log.Shown for a log that is not there.
func (r Redact) Shown(path string, headers []Header) Shown {
	return NewPacker(Config{Redact: r}).Shown(path, headers)
}

// Shown is for a request with this path, with its query, and these headers. A nil packer knows what every log leaves out.
func (p *Packer) Shown(path string, headers []Header) Shown {
	if p == nil {
		p = defaultPacker()
	}
	o := &Packing{Packer: p}
	o.knowSecrets(&Entry{Input: Input{Request: input.Request{Path: path, Headers: headers}}})
	o.deep = len(o.known.list) > 0
	return Shown{o}
}

// Text is a text without secrets.
func (s Shown) Text(text string) string { return s.o.hide(s.o.redact.redactText(text)) }

// Path is a path, or a URL, without secrets.
func (s Shown) Path(path string) string { return s.o.hidePlace(s.o.redact.url(path)) }

// Header is the value of a header without secrets.
func (s Shown) Header(name, value string) string {
	clean := s.o.redact.headerValue(name)
	if clean == nil {
		return redacted
	}
	return s.o.hide(clean(value))
}
