<!-- cache_is_no_boolean.pml:3:3: cache='no'; expected "true" or "false" -->
<schema name="s">
  <module name="a" cache="no">text</module>
</schema>
