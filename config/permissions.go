package config

import (
	"errors"
	"slices"
	"time"
)

// Permissions is a path that Gatehouse answers itself, for the pages of an application.
type Permissions struct {
	Path   string    `yaml:"path" doc:"The exact path, on every host. /.well-known/gatehouse/permissions is the usual one. The application never sees requests for it. Default: none."`
	MaxAge *Duration `yaml:"max_age" doc:"How long a browser may keep the answer. Default: 30s."`
}

// Age is how long an answer may be kept.
func (c Permissions) Age() time.Duration {
	if c.MaxAge == nil {
		return 30 * time.Second
	}
	return time.Duration(*c.MaxAge)
}

// ValidatePermissions checks that there is something to tell of.
func (c *Config) ValidatePermissions() error {
	switch {
	case c.Permissions.Path == "" && c.Permissions.MaxAge != nil:
		return errors.New("permissions.path: required: without it there are no permissions")
	case c.Permissions.Path == "":
		return nil
	case !slices.ContainsFunc(c.Applications(), func(a App) bool { return a.Routes.File != "" }):
		return errors.New("permissions.path: permissions need routes: set routes.file")
	}
	return nil
}
