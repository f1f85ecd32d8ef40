<!-- duplicate_module.pml:5:5: module name 'a' is taken (duplicate_module.pml:3:3); expected one of its own -->
<schema name="s">
  <module name="a">text</module>
  <union>
    <module name="a">other</module>
  </union>
</schema>
