package config

import (
	"cmp"
	"errors"
	"path/filepath"
	"reflect"
)

// Directory says where users, groups, roles and the relations between them come from, and how a caller is found among them.
type Directory struct {
	File         string          `yaml:"file" doc:"A file, or a folder of files, with objects and relations; docs/directory.md has the formats. Watched; what changes is in force within 200 ms, where it is small. One that cannot be used is reported with file and line, and the last good one stays. Without it, writable or control there is no directory."`
	Writable     bool            `yaml:"writable" doc:"This node owns the directory: clients of listen.directory whose key has the scope write change it, and it is kept in state_dir, which must be set. file and manifest are then read once, where state_dir holds no directory yet, and not watched. Without file it begins empty. Default: false."`
	Control      bool            `yaml:"control" doc:"The directory is managed at the control plane that the section control names, and pushed to this edge, which keeps a copy in state_dir. Leave out file, manifest and writable. Default: false."`
	Manifest     string          `yaml:"manifest" doc:"The manifest: types with their relations and permissions, YAML. Watched. Default: the folder's manifest.yaml, else the built-in manifest (user, group, role, identity, resource)."`
	Limits       DirectoryLimits `yaml:"limits" doc:"What one question may cost. A question that needs more is an error, and the request is denied."`
	User         DirectoryUser   `yaml:"user" doc:"How the caller is found in the directory: input.user."`
	UnknownUser  string          `yaml:"unknown_user" doc:"Authenticated callers who are not in the directory: absent asks the policy without input.user; deny denies them (unknown_user) before the policy is asked. Default: absent."`
	DisabledUser string          `yaml:"disabled_user" doc:"Authenticated callers whose user in the directory is disabled (his property disabled is true, or his identity provider says so through SCIM): deny denies them (disabled_user) before the policy is asked; allow asks the policy. Default: deny."`
	MaxAge       Duration        `yaml:"max_age" doc:"How long the last good directory counts while the file cannot be used, or control does not confirm it. 0s: for ever. Default: 0s."`
	AfterMaxAge  string          `yaml:"after_max_age" doc:"What happens then, until the file is good again, or control is there: serve goes on deciding and says so (log, status, gatehouse_directory_expired); deny decides nothing (not_ready). Default: serve."`

	Dir string `yaml:"-"` // where a directory is that is written; "": directory in state_dir
}

// DirectoryLimits bound what one question may cost.
type DirectoryLimits struct {
	Depth int `yaml:"depth" doc:"Most steps from an object to a subject. Default: 64."`
	Work  int `yaml:"work" doc:"Most relations that are looked at. Default: 100000."`
}

// DirectoryUser says what of a credential names the user, and what it is the name of.
type DirectoryUser struct {
	From    string   `yaml:"from" doc:"What of the credential names the user: subject or email, which is only there where the issuer vouches for it. Default: subject."`
	Claim   string   `yaml:"claim" doc:"Instead of from: the claim that names the user, a string. Default: none."`
	By      string   `yaml:"by" doc:"What it names: identity is the user with the relation identity:NAME#identifier@user:ID, or user:ID#identifier@identity:NAME; id is user:NAME itself. Default: identity."`
	Issuers []string `yaml:"issuers" doc:"Only credentials of these issuers are users' ones: two issuers may give one subject to two people. Default: all that are configured."`
}

// Configured reports whether there is a directory.
func (c Directory) Configured() bool { return c.File != "" || c.Writable || c.Control }

// DirectoryDir is where the directory is kept that is written.
func (c *Config) DirectoryDir() string {
	return cmp.Or(c.Directory.Dir, filepath.Join(c.StateDir, "directory"))
}

// ValidateDirectory checks what the section says, and what others say about the directory.
func (c *Config) ValidateDirectory() error {
	errs := []error{c.Directory.validate(), c.validateControl()}
	if c.Directory.Writable && c.StateDir == "" && c.Directory.Dir == "" {
		errs = append(errs, Wrong("directory.writable", "set state_dir: what is written is kept there"))
	}
	for key, from := range map[string]string{"roles_from": c.Headers.RolesFrom, "groups_from": c.Headers.GroupsFrom} {
		switch from {
		case "", "token":
		case "directory", "both":
			if !c.Directory.Configured() {
				errs = append(errs, Wrong("headers."+key, "there is no directory: set directory.file"))
			}
		default:
			errs = append(errs, Wrong("headers."+key, "%q is neither token, directory nor both", from))
		}
	}
	if len(c.Headers.Properties) > 0 && !c.Directory.Configured() {
		errs = append(errs, Wrong("headers.properties", "there is no directory: set directory.file"))
	}
	return errors.Join(errs...)
}

func (c Directory) validate() error {
	if !c.Configured() {
		if !reflect.DeepEqual(c, Directory{}) {
			return Wrong("directory.file", "required: without it, writable or control there is no directory")
		}
		return nil
	}
	var errs []error
	one := func(key, value, a, b string) {
		if value != "" && value != a && value != b {
			errs = append(errs, Wrong("directory."+key, "%q is neither %s nor %s", value, a, b))
		}
	}
	one("unknown_user", c.UnknownUser, "absent", "deny")
	one("disabled_user", c.DisabledUser, "deny", "allow")
	one("after_max_age", c.AfterMaxAge, "serve", "deny")
	one("user.from", c.User.From, "subject", "email")
	one("user.by", c.User.By, "identity", "id")
	for key, also := range map[string]bool{"file": c.File != "", "writable": c.Writable, "manifest": c.Manifest != ""} {
		if c.Control && also {
			errs = append(errs, Wrong("directory."+key, "leave it out, or directory.control: a directory has one source"))
		}
	}
	switch {
	case c.User.From != "" && c.User.Claim != "":
		errs = append(errs, Wrong("directory.user.claim", "leave out directory.user.from, which it takes the place of"))
	case c.Limits.Depth < 0:
		errs = append(errs, Wrong("directory.limits.depth", "%d: must be above zero", c.Limits.Depth))
	case c.Limits.Work < 0:
		errs = append(errs, Wrong("directory.limits.work", "%d: must be above zero", c.Limits.Work))
	case c.MaxAge < 0:
		errs = append(errs, Wrong("directory.max_age", "must not be below zero"))
	case c.Writable && (c.MaxAge != 0 || c.AfterMaxAge != ""):
		errs = append(errs, Wrong("directory.max_age", "leave it out, and after_max_age: a directory that is written does not age"))
	case c.AfterMaxAge == "deny" && c.MaxAge == 0:
		errs = append(errs, Wrong("directory.after_max_age", "set directory.max_age: without it the directory never gets too old"))
	}
	return errors.Join(errs...)
}
