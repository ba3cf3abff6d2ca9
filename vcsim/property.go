package main

import (
	"bytes"
	"fmt"
	"path"
	"reflect"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// rawXML is a part of the answer that was encoded while its object was locked. This makes it safe
// to send the answer without a lock, and is cheaper than copying first.
type rawXML struct {
	Inner string `xml:",innerxml"`
}

// managed returns the managed object of the API inside an object of the inventory.
func managed(object mo.Reference) reflect.Value {
	value := reflect.ValueOf(object).Elem()
	for path.Base(value.Type().PkgPath()) != "mo" { // the simulator's types embed the API's
		value = value.Field(0)
		if value.Kind() == reflect.Pointer {
			value = value.Elem()
		}
	}
	return value
}

// find returns an object in the context of the caller's session, to which views and similar objects
// belong.
func find(ctx *simulator.Context, self ref) mo.Reference {
	if ctx.Session == nil {
		return ctx.Map.Get(self)
	}
	object := ctx.Session.Get(self)
	if of, ok := object.(interface{ Get() mo.Reference }); ok { // history collectors return another object
		return of.Get()
	}
	return object
}

// isA reports whether an object's type has this name or extends a type of this name.
func isA(object reflect.Type, name string) bool {
	if object.Name() == name || name == "ManagedObject" {
		return true
	}
	key := pathOf{object, name}
	if known, ok := extends.Load(key); ok {
		return known.(bool)
	}
	field, ok := object.FieldByName(name)
	extends.Store(key, ok && field.Anonymous)
	return ok && field.Anonymous
}

var extends sync.Map // pathOf -> bool: a view asks this of every object

// readProperty returns a property by its path, ready for encoding, or nil if it is unset. The
// caller holds the object's lock. An unknown path is InvalidProperty.
func readProperty(object reflect.Value, name string) (any, fault) {
	invalid := &types.InvalidProperty{Name: name}
	var field mo.Field
	if !field.FromString(name) {
		return nil, invalid
	}
	value, ok := descend(object, field.Path)
	if !ok {
		return nil, invalid
	}
	if field.Key == nil {
		return wrapped(value), nil
	}
	item := itemOf(value, field.Key)
	if item.IsValid() && field.Item != "" {
		if item, ok = descend(item, field.Item); !ok {
			return nil, invalid
		}
	}
	return wrapped(item), nil
}

// descend follows a dotted path. An invalid Value means that it is unset, false that there is no
// such path.
func descend(value reflect.Value, dotted string) (reflect.Value, bool) {
	kind := value.Type()
	for name := range strings.SplitSeq(dotted, ".") {
		for kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
			value = deref(value)
		}
		if value.IsValid() && value.Kind() == reflect.Interface {
			value = deref(deref(value))
			if value.IsValid() {
				kind = value.Type()
			}
		}
		if kind.Kind() == reflect.Interface {
			return reflect.Value{}, true // unset, so the rest of the path cannot be checked
		}
		if kind.Kind() != reflect.Struct {
			return reflect.Value{}, false
		}
		field, ok := kind.FieldByName(strings.ToUpper(name[:min(1, len(name))]) + name[min(1, len(name)):])
		if !ok {
			return reflect.Value{}, false
		}
		kind = field.Type
		if value.IsValid() {
			value = value.FieldByIndex(field.Index)
		}
	}
	return value, true
}

func deref(value reflect.Value) reflect.Value {
	if !value.IsValid() || (value.Kind() != reflect.Pointer && value.Kind() != reflect.Interface) {
		return value
	}
	return value.Elem() // invalid if nil
}

// itemOf returns the element of a list with the key.
func itemOf(list reflect.Value, key any) reflect.Value {
	if !list.IsValid() || list.Kind() != reflect.Slice {
		return reflect.Value{}
	}
	for i := range list.Len() {
		item := deref(deref(list.Index(i)))
		if item.Kind() != reflect.Struct {
			return reflect.Value{}
		}
		if own := item.FieldByName("Key"); own.IsValid() && own.Interface() == key {
			return item
		}
	}
	return reflect.Value{}
}

// wrapped gives lists their type in the API. It returns nil for an unset property.
func wrapped(value reflect.Value) any {
	value = deref(value)
	if !value.IsValid() || (value.Kind() == reflect.String && value.Len() == 0) {
		return nil
	}
	if value.Kind() == reflect.Interface || value.Kind() == reflect.Pointer {
		return wrapped(value)
	}
	if value.Kind() != reflect.Slice {
		return value.Interface()
	}
	if value.Type() == reflect.TypeOf(types.ByteSlice{}) {
		return &types.ArrayOfByte{Byte: value.Bytes()}
	}
	name := strings.TrimPrefix(value.Type().Elem().Name(), "Base")
	name = map[string]string{"uint8": "Byte", "int16": "Short", "int32": "Int", "int64": "Long", "string": "String"}[name]
	if name == "" {
		name = strings.TrimPrefix(value.Type().Elem().Name(), "Base")
	}
	kind, ok := types.TypeFunc()("ArrayOf" + name)
	if !ok {
		panic("there is no ArrayOf" + name) // every list type of the API has one
	}
	array := reflect.New(kind)
	array.Elem().FieldByName(name).Set(value)
	return array.Interface()
}

// allProperties returns the names of an object's properties, for a filter with all set.
func allProperties(object reflect.Type) []string {
	var names []string
	for i := range object.NumField() {
		field := object.Field(i)
		switch {
		case field.Name == "Self":
		case field.Anonymous:
			names = append(names, allProperties(field.Type)...)
		default:
			names = append(names, strings.ToLower(field.Name[:1])+field.Name[1:])
		}
	}
	return names
}

// encode returns the content of an element, without its tags.
func encode(value any) string {
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	e.buffer.Reset()
	start := xml.StartElement{Name: xml.Name{Local: "x"}}
	if err := e.encoder.EncodeElement(value, start); err != nil {
		panic(fmt.Sprintf("%T cannot be encoded: %s", value, err)) // types of the API can always be encoded
	}
	text := e.buffer.String()
	return text[len("<x>") : len(text)-len("</x>")]
}

// encoder is used for one value after another, because a new one has a buffer of 4 KiB.
type encoder struct {
	buffer  bytes.Buffer
	encoder *xml.Encoder
}

var encoders = sync.Pool{New: func() any {
	e := &encoder{}
	e.encoder = xml.NewEncoder(&e.buffer)
	return e
}}
