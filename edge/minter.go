package edge

import (
	"errors"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/identity/mint"
)

// newMinter makes the signer of headers.jwt and loads its key, nil where no such header is configured.
func newMinter(c *config.Config, logger *zap.Logger, before *mint.Minter) (*mint.Minter, error) {
	j := c.Headers.JWT
	if j == (config.HeaderJWT{}) {
		return nil, nil
	}
	out := mint.Config{Issuer: j.Issuer, Lifetime: time.Duration(j.Lifetime), KeyFile: j.KeyFile, Algorithm: j.Algorithm, Logger: logger, Succeeds: before}
	if c.StateDir != "" {
		out.Dir = filepath.Join(c.StateDir, "headers")
	}
	m, err := mint.New(out)
	if err == nil {
		err = m.Load()
	}
	problems := []error{err}
	if j.Name == "" {
		problems = append(problems, config.Wrong("headers.jwt.name", "which header is to carry the token?"))
	}
	if j.Audience == "" {
		problems = append(problems, config.Wrong("headers.jwt.audience", "required: without it every application would accept the token"))
	}
	if j.KeyFile == "" && c.Listen.JWKS == "" {
		problems = append(problems, config.Wrong("headers.jwt.key_file", "without it nobody has the key's public half: set listen.jwks, or give a key"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, jwtKeys(err)
	}
	return m, nil
}

// jwtKeys prefixes errors with the keys of headers.jwt.
func jwtKeys(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, jwtKeys(e))
		}
		return errors.Join(all...)
	}
	if field, ok := errors.AsType[*mint.FieldError](err); ok {
		return &config.KeyError{Path: "headers.jwt." + field.Field, Err: field.Err}
	}
	if _, ok := errors.AsType[*config.KeyError](err); ok {
		return err
	}
	return &config.KeyError{Path: "headers.jwt", Err: err}
}
