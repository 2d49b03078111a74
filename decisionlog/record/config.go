package record

import (
	"context"
	"time"

	"go.uber.org/zap"

	"gatehouse/decisionlog/events"
	"gatehouse/input"
)

// Config says how entries are packed, and become lines. Its zero value is for who only knows what is secret to all.
type Config struct {
	Schema   *input.Schema // the table of the input's fields; nil: input.Standard
	Redact   Redact        // names of credentials beyond those known by default
	Claims   []string      // names of the caller's claims that are recorded
	MaxEntry int           // the most bytes of a packed entry, and of a line
	Labels   map[string]string
	Masks    []events.Mask
	Rules    func(ctx context.Context, event []byte) Ruling // nil: the policy is not asked
	Plain    bool                                           // every line is made by way of values
	Clock    func() time.Time
	Logger   *zap.Logger
}

func (c *Config) schema() *input.Schema {
	if c.Schema == nil {
		return input.Standard()
	}
	return c.Schema
}

// Redact adds to what is redacted by default; nothing can be taken away.
type Redact struct {
	Headers []string // names of headers
	Params  []string // names of query parameters and of members of the body
	Cookies []string // names of cookies that hold credentials: the value of every cookie is left out, that of these also where it stands elsewhere
	// Only names the headers of requests whose values may be recorded; nil: those of all that are not redacted. Pseudo-headers are, but
	// for what is secret in them.
	Only []string
}
