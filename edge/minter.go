package edge

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/identity/mint"
)

// minter makes what signs headers.jwt and loads its key, nil where no such header is configured.
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
		problems = append(problems, errors.New("name: which header is to carry the token?"))
	}
	if j.Audience == "" {
		problems = append(problems, errors.New("audience: required: without it every application would accept the token"))
	}
	if j.KeyFile == "" && c.Listen.JWKS == "" {
		problems = append(problems, errors.New("key_file: without it nobody has the key's public half: set listen.jwks, or give a key"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, under("headers.jwt", err)
	}
	return m, nil
}

// under puts a key in front of each problem.
func under(key string, err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return fmt.Errorf("%s.%w", key, err)
	}
	var errs []error
	for _, e := range joined.Unwrap() {
		errs = append(errs, under(key, e))
	}
	return errors.Join(errs...)
}
