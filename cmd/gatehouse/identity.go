package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"gatehouse/cmd/grammar"
	"gatehouse/identity/apikey"
	"gatehouse/terminal"

	"github.com/spf13/cobra"
)

func identityCommand() *cobra.Command {
	c := &cobra.Command{Use: "identity", Short: "Create credentials"}
	return grammar.Family(c, newKeyCommand())
}

// newKeyOptions are the flags of `gatehouse identity new-key`.
type newKeyOptions struct {
	entry   apikey.Entry
	expires grammar.Expiry
	file    string
	output  grammar.Output
}

func newKeyCommand() *cobra.Command {
	var o newKeyOptions
	c := &cobra.Command{
		Use:   "new-key",
		Short: "Create an API key",
		Long: `Creates an API key of 256 random bits and prints it once: only its SHA-256 is stored. Copy the entry printed below the key to
the file in identity.api_keys.file; --file appends it there and prints only the key. A running gatehouse serve loads it
within moments. To rotate a key, create a second one for the same subject, distribute it, and then delete the entry of the first.`,
		Example: `  gatehouse identity new-key --subject ci --role deployer --expires 90d
  gatehouse identity new-key --subject ci --role deployer --expires 90d --file keys.yaml`,
		Args: grammar.Arguments("gatehouse identity new-key --subject ci", 0),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c.OutOrStdout(), c.ErrOrStderr(), time.Now()) },
	}
	f := c.Flags()
	f.StringVar(&o.entry.Subject, "subject", "", "the caller with this key: identity.subject (required)")
	f.StringArrayVar(&o.entry.Roles, "role", nil, "a role; may be repeated")
	f.StringArrayVar(&o.entry.Groups, "group", nil, "a group; may be repeated")
	f.StringArrayVar(&o.entry.Scopes, "scope", nil, "a scope; may be repeated")
	o.expires.Add(c, "when the key ends (default: never)", "")
	f.StringVar(&o.entry.ID, "id", "", "a name for the entry, shown to policies as claims.key_id (default: random)")
	f.StringVar(&o.file, "file", "", "append the entry to this file; created with mode 0600 if it does not exist")
	o.output.Add(c, "one object")
	return c
}

func (o *newKeyOptions) run(out, notes io.Writer, now time.Time) error {
	if o.entry.Subject == "" {
		return errors.New("say who calls with the key: gatehouse identity new-key --subject ci")
	}
	var err error
	if o.entry.Expires, err = o.expires.At(now); err != nil {
		return err
	}
	key, err := apikey.New(o.entry)
	if err != nil {
		return fmt.Errorf("making the key: %w", err)
	}
	if o.file != "" {
		if err := key.AppendToFile(o.file); err != nil {
			return fmt.Errorf("adding the key: %w", err)
		}
	}
	switch {
	case o.output.JSON():
		shown := struct {
			Key   string `json:"key"`
			ID    string `json:"id"`
			File  string `json:"file,omitempty"`  // that has the entry
			Entry string `json:"entry,omitempty"` // for the file, as YAML
		}{Key: key.Reveal(), ID: key.ID(), File: o.file}
		if o.file == "" {
			shown.Entry = string(key.YAML())
		}
		if err := terminal.JSON(out).Encode(shown); err != nil {
			return err
		}
	case o.file == "":
		fmt.Fprintf(out, "%s\n\n# The key is shown this once. For the file that identity.api_keys.file names:\n%s", key.Reveal(), key.YAML())
	default:
		fmt.Fprintln(out, key.Reveal())
		fmt.Fprintf(notes, "The entry %s is in %s. The key is shown this once.\n", key.ID(), o.file)
	}
	if o.entry.Expires.IsZero() {
		fmt.Fprintln(notes, "It never expires: --expires 90d would bound the harm that a lost key can do.")
	}
	return nil
}
