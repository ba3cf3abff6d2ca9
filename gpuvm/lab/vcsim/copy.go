package main

import (
	"bytes"
	"fmt"
	"reflect"

	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// cloneDevice returns a copy of which every field may be replaced. What its pointers point to is
// shared, as everywhere in the inventory.
func cloneDevice(device types.BaseVirtualDevice) types.BaseVirtualDevice {
	value := reflect.ValueOf(device).Elem()
	next := reflect.New(value.Type())
	next.Elem().Set(value)
	return next.Interface().(types.BaseVirtualDevice)
}

// deepCopy copies a value of the API through its own encoding, so that nothing is shared.
func deepCopy[T any](value *T) *T {
	var buffer bytes.Buffer
	if err := xml.NewEncoder(&buffer).Encode(value); err != nil {
		panic(fmt.Sprintf("%T cannot be encoded: %s", value, err)) // a type of the API always can
	}
	decoder := xml.NewDecoder(&buffer)
	decoder.TypeFunc = types.TypeFunc()
	next := new(T)
	if err := decoder.Decode(next); err != nil {
		panic(fmt.Sprintf("%T cannot be decoded: %s", value, err))
	}
	return next
}
