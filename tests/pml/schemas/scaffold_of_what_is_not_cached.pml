<!-- scaffold_of_what_is_not_cached.pml:5:3: scaffold 'x' has module 'b', which has cache="false"; expected modules that are cached -->
<schema name="s">
  <module name="a">one</module>
  <module name="b" cache="false">two</module>
  <scaffold name="x" modules="a b"/>
</schema>
