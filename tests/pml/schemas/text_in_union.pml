<!-- text_in_union.pml:4:5: text 'or' in a <union>; expected <module> alone -->
<schema name="s">
  <union>
    or
    <module name="a">text</module>
  </union>
</schema>
