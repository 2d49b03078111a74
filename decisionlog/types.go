package decisionlog

import (
	"gatehouse/decisionlog/events"
	"gatehouse/decisionlog/record"
	"gatehouse/input"
)

// What the configuration of a log and its entries are made of, so that who fills them in needs no more than this package.
type (
	// Entry is of package record.
	Entry = record.Entry
	// Bundle is of package record.
	Bundle = record.Bundle
	// Digests is of package record.
	Digests = record.Digests
	// Redact is of package record.
	Redact = record.Redact
	// Ruling is of package record.
	Ruling = record.Ruling
	// Shown is of package record.
	Shown = record.Shown
	// Mask is of package events.
	Mask = events.Mask

	// Header is of package input.
	Header = input.Header
	// Param is of package input.
	Param = input.Param
	// Input is of package input.
	Input = input.Input
	// Identity is of package input.
	Identity = input.Identity
	// Endpoint is of package input.
	Endpoint = input.Endpoint
	// Peer is of package input.
	Peer = input.Peer
	// Document is of package input.
	Document = input.Document
)
