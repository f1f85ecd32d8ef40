<!-- reserved_module_name.pml:3:3: module name 'user'; expected one that is no tag of PML -->
<schema name="s">
  <module name="user">text</module>
</schema>
