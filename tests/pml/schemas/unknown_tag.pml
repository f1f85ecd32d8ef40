<!-- unknown_tag.pml:3:22: unknown tag <bold> in <module>; expected text, <module>, <union>, <parameter> -->
<schema name="s">
  <module name="a">é <bold>text</bold></module>
</schema>
